"""Layers are rounded again behind quantized ones; what breaks a network is not shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxmpq.budgets.budget import Budget
from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import Augmentations
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.requantize import stage
from onnxmpq.requantize.sequential import SequentialRequantizer, requantized
from onnxmpq.requantize.stage import is_requantized, requantize, requantized_draft, rounded_again, shipped
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


@pytest.fixture
def draft(lower_classifier: Lower) -> Draft:
    lowering = lower_classifier(rounding="compensated", widths=(2, 3, 4, 8))
    return lowering.draft(Plan({layer.name: Option(3) for layer in lowering.units}))


def test_it_learns_from_all_samples_in_all_their_augmentations(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Dataset, Augmentations]] = []

    def noted(*args: Any, augmentations: Augmentations, **more: Any) -> SequentialRequantizer:
        seen.append((args[5], augmentations))
        return SequentialRequantizer(*args, augmentations=augmentations, **more)

    monkeypatch.setattr(stage, "SequentialRequantizer", noted)
    found = requantized_draft(replace(draft, setting=replace(draft.setting, augmentations=Augmentations(-1))))
    assert seen == [(draft.setting.splits.rounding, Augmentations(-1))]
    changed = (not np.array_equal(v, found.draft.constants[n]) for n, v in draft.constants.items())
    assert any(changed)
    assert not found.broke


@pytest.mark.parametrize(
    ("widths", "requantizes"),
    [
        ((3, 8, 8, 8), True),
        ((1, 8, 8, 8), True),  # those of 8 bits make up for the one of 1, which is not fitted itself
        ((1, 1, 1, 1), False),
        ((8, 8, 8, 8), False),
        ((7, 7, 7, 7), False),
        ((6, 7, 7, 7), True),
    ],
)
def test_it_pays_where_some_layer_loses_and_some_layer_can_make_up_for_it(
    draft: Draft, widths: tuple[int, ...], requantizes: bool
) -> None:
    layers = draft.prepared.layers
    plan = Plan({la.name: Option(bits) for la, bits in zip(layers, widths, strict=True)})
    assert is_requantized(replace(draft, plan=plan)) is requantizes


@pytest.mark.parametrize(("limit", "kept"), [("1MB", [False]), ("100B", [False, True])])
def test_codes_keep_their_kind_where_the_file_would_break_a_budget(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, limit: str, kept: list[bool]
) -> None:
    asked: list[bool] = []

    def noted(*args: Any, same_kind: bool) -> Candidates:
        asked.append(same_kind)
        return requantized(*args, same_kind=same_kind)

    monkeypatch.setattr(stage, "requantized", noted)
    own = draft.setting.request
    request = replace(own, constraints=replace(own.constraints, budgets=(Budget.parse(limit),)))
    draft = replace(draft, setting=replace(draft.setting, request=request))
    rounded_again(draft)
    assert asked == kept


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_what_broke_is_not_shipped(draft: Draft, monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    monkeypatch.setattr(stage, "file_loss", lambda _: loss)
    found = requantized_draft(draft)
    assert found.broke
    for layer in draft.prepared.layers:
        before, after = (some.candidates.quantized(layer, 3).codes for some in (draft, found.draft))
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("loss", "told"), [(1.0, ""), (np.nan, ", which broke the network, so the first rounding is kept")]
)
def test_what_became_of_it_is_said(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, loss: float, told: str
) -> None:
    monkeypatch.setattr(stage, "file_loss", lambda _: loss)
    requantize(draft)
    assert f"rounded again behind quantized layers{told}" in draft.setting.stages.notes


def test_a_plan_of_wide_weights_ships_as_it_is(draft: Draft) -> None:
    wide = replace(draft, plan=Plan({layer.name: Option(8) for layer in draft.prepared.layers}))
    assert shipped(wide) is wide
