"""What is requantized, on which samples, and what ships."""

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
from onnxmpq.requantize.logit_scale import file_loss
from onnxmpq.requantize.sequential import SequentialRequantizer, requantized
from onnxmpq.requantize.stage import (
    Requantized,
    is_requantized,
    requantized_draft,
    shipped,
    told,
)
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


@pytest.fixture
def draft(lower_classifier: Lower) -> Draft:
    lowering = lower_classifier(rounding="compensated", widths=(2, 3, 4, 8))
    return lowering.draft(Plan({layer.name: Option(3) for layer in lowering.units}))


def test_all_samples_are_learned_from_once(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Dataset, Augmentations]] = []

    def noted(*args: Any, augmentations: Augmentations, **others: Any) -> SequentialRequantizer:
        seen.extend((some, augmentations) for some in args if isinstance(some, Dataset))
        return SequentialRequantizer(*args, augmentations=augmentations, **others)

    monkeypatch.setattr(stage, "SequentialRequantizer", noted)
    requantized_draft(replace(draft, setting=replace(draft.setting, augmentations=Augmentations(-1))))
    assert [augmentations for _, augmentations in seen] == [Augmentations(-1)]
    assert seen[0][0] is draft.setting.splits.rounding


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


def test_wide_weights_make_up_for_what_integer_inputs_lose(lower_classifier: Lower) -> None:
    lowering = lower_classifier(rounding="compensated", activations="int8", widths=(8,))
    before = lowering.draft(Plan({layer.name: Option(7, 8) for layer in lowering.units}))
    assert is_requantized(before)
    found = requantized_draft(before)
    assert found.behind < found.before


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
    stage.rounded_again(draft)
    assert asked == kept


def test_the_losses_are_those_of_both_files(draft: Draft) -> None:
    found = requantized_draft(draft)
    again = stage.rounded_again(draft)
    assert (found.before, found.behind) == pytest.approx((file_loss(draft), file_loss(again)))
    changed = (not np.array_equal(v, found.draft.constants[n]) for n, v in draft.constants.items())
    assert any(changed)


@pytest.mark.parametrize(
    ("before", "behind", "broke"),
    [(1.0, 1.5, False), (np.nan, 1.0, False), (np.inf, np.inf, False), (1.0, np.nan, True), (1.0, np.inf, True)],
)  # fmt: skip
def test_what_gives_no_numbers_is_broken(draft: Draft, before: float, behind: float, broke: bool) -> None:
    assert Requantized(draft, before, behind).broke is broke


def test_what_broke_is_not_shipped(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "file_loss", lambda some: 1.0 if some is draft else np.nan)
    found = requantized_draft(draft)
    assert found.broke
    for layer in draft.prepared.layers:
        codes = found.draft.candidates.quantized(layer, 3).codes
        np.testing.assert_array_equal(codes, draft.candidates.quantized(layer, 3).codes, err_msg=layer.name)
    assert told(found, draft.setting) == ", which broke the network, so the first rounding is kept"


def test_a_plan_of_wide_weights_ships_as_it_is(draft: Draft) -> None:
    wide = replace(draft, plan=Plan({layer.name: Option(8) for layer in draft.prepared.layers}))
    assert shipped(wide) is wide


def test_what_is_said(draft: Draft) -> None:
    assert draft.setting.splits.judging.count == 8
    found = told(Requantized(draft, 2.0, 1.0), draft.setting)
    assert found == ": soft-kl 2 -> 1 on 8 calibration samples"
