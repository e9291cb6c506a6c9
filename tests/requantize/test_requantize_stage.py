"""Whether to requantize, a trial tells on samples that it did not see; what ships has learned from all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxmpq.budgets.budget import Budget
from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.observer import Observer, Progress, Stages
from onnxmpq.requantize import stage
from onnxmpq.requantize.logit_scale import file_loss, with_logit_scale
from onnxmpq.requantize.sequential import requantized
from onnxmpq.requantize.stage import (
    Requantized,
    is_requantized,
    requantized_draft,
    rounded_on,
    shipped,
    standard_error,
)
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.stage import round_weights
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


@pytest.fixture
def draft(lower_classifier: Lower) -> Draft:
    lowering = lower_classifier(rounding="compensated", widths=(2, 3, 4, 8))
    return trying(lowering.draft(Plan({layer.name: Option(3) for layer in lowering.units})), tries=True)


def trying(draft: Draft, *, tries: bool) -> Draft:
    """Under an effort that tries requantizing first, or that requantizes at once."""
    effort = replace(draft.setting.request.search.effort, tries=tries)
    own = draft.setting.request
    request = replace(own, search=replace(own.search, effort=effort))
    return replace(draft, setting=replace(draft.setting, request=request))


def settlings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Dataset, Augmentations]]:
    """What each requantizing will have seen."""
    seen, own = [], stage.rounded_again

    def noted(draft: Draft, data: Dataset, augmentations: Augmentations, progress: Progress) -> Draft:
        seen.append((data, augmentations))
        return own(draft, data, augmentations, progress)

    monkeypatch.setattr(stage, "rounded_again", noted)
    return seen


def test_a_trial_on_one_half_and_then_all_samples(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, splits = settlings(monkeypatch), draft.setting.splits
    requantized_draft(replace(draft, setting=replace(draft.setting, augmentations=Augmentations(-1))))
    assert [augmentations for _, augmentations in seen] == [NO_AUGMENTATION, Augmentations(-1)]
    assert seen[0][0] is splits.requantizing
    assert seen[1][0] is splits.rounding


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
    stage.rounded_again(draft, draft.setting.splits.requantizing, NO_AUGMENTATION, lambda _done, _total: None)
    assert asked == kept


def test_the_losses_are_those_of_the_trial(draft: Draft) -> None:
    found, data = requantized_draft(draft), draft.setting.splits.requantizing
    first = rounded_on(data, draft)
    trial = stage.rounded_again(first, data, NO_AUGMENTATION, lambda _done, _total: None)
    assert (found.before, found.behind) == pytest.approx((file_loss(first), file_loss(trial)))


def test_the_first_rounding_in_a_trial_saw_no_sample_that_judges(draft: Draft) -> None:
    """Changing these changes nothing of it."""
    splits = draft.setting.splits
    first = rounded_on(splits.requantizing, draft)
    assert splits.requantizing.count < splits.rounding.count
    alone = replace(
        draft, setting=replace(draft.setting, splits=replace(splits, rounding=splits.requantizing))
    )
    again = round_weights(alone.setting).draft(draft.plan)
    for name, value in first.constants.items():
        np.testing.assert_allclose(value, again.constants[name], rtol=1e-5)
    assert any(not np.array_equal(value, draft.constants[name]) for name, value in first.constants.items())


def test_undivided_samples_round_once(draft: Draft) -> None:
    assert rounded_on(draft.setting.splits.rounding, draft) is draft


@pytest.mark.parametrize(
    ("before", "behind", "doubt", "helped"),
    [
        (1.0, 0.9, 0.0, True),
        (1.0, 1.1, 0.0, False),
        (1.0, 1.1, 0.06, True),  # within two standard errors
        (1.0, 1.1, 0.04, False),
        (0.0, 0.0, 0.0, False),  # nothing tells them apart
        (np.nan, 1.0, 0.0, True),
        (np.inf, 1.0, 0.0, True),
        (1.0, np.nan, 0.0, False),
        (1.0, np.inf, 0.0, False),
    ],
)
def test_requantizing_helps_unless_it_is_worse_beyond_chance(
    draft: Draft, before: float, behind: float, doubt: float, helped: bool
) -> None:
    assert Requantized(draft, before, behind, doubt).helped is helped


@pytest.mark.parametrize(
    ("before", "behind", "helped"), [(np.inf, np.inf, True), (np.inf, 1, True), (1, np.inf, False)]
)
def test_infinite_losses_are_compared_without_a_warning(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, before: float, behind: float, helped: bool
) -> None:
    monkeypatch.setattr(stage, "file_losses", lambda some: np.full(16, before if some is draft else behind))
    found = stage.compared(draft, replace(draft))
    assert found.doubt == 0
    assert found.helped is helped


def test_the_standard_error_is_that_of_sums_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    parts = rng.exponential(size=16)
    sums = rng.choice(parts, (20_000, 16)).sum(axis=1)
    assert standard_error(parts) == pytest.approx(sums.std() * np.sqrt(16 / 15), rel=0.05)


@pytest.mark.parametrize("parts", [[1.0], [1.0, 5.0], [1.0] * 7 + [np.inf] * 7, [np.nan] * 16])
def test_few_parts_and_infinite_ones_tell_no_chance(parts: list[float]) -> None:
    assert standard_error(np.array(parts)) == 0


def test_where_the_trial_does_harm_the_first_rounding_is_kept(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "rounded_again", lambda draft, *_: with_logit_scale(draft, 5.0))
    found = requantized_draft(draft)
    assert not found.helped
    assert found.before < found.behind
    for layer in draft.prepared.layers:
        before, after = (some.candidates.quantized(layer, 3).codes for some in (draft, found.draft))
        np.testing.assert_array_equal(before, after)


def test_an_effort_that_tries_nothing_requantizes_once(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = settlings(monkeypatch)
    found = requantized_draft(trying(draft, tries=False))
    assert [data is draft.setting.splits.requantizing for data, _ in seen] == [True]
    assert found.helped
    changed = (not np.array_equal(v, found.draft.constants[n]) for n, v in draft.constants.items())
    assert any(changed)


def test_samples_that_the_first_rounding_saw_do_not_tell_whether_requantizing_helps(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([np.full(16, 1.0), np.full(16, 1.5)])
    monkeypatch.setattr(stage, "file_losses", lambda _: next(losses))
    monkeypatch.setattr(stage, "best_logit_scale", lambda _: 1.0)
    assert requantized_draft(trying(draft, tries=False)).helped


def test_what_broke_is_not_shipped_untried_either(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trying(draft, tries=False)
    losses = {True: np.ones(4), False: np.full(4, np.nan)}
    monkeypatch.setattr(stage, "file_losses", lambda some: losses[some is given])
    found = requantized_draft(given)
    assert not found.helped
    for name, layer in ((la.name, la) for la in draft.prepared.layers):
        codes = found.draft.candidates.quantized(layer, 3).codes
        np.testing.assert_array_equal(codes, draft.candidates.quantized(layer, 3).codes, err_msg=name)


@pytest.mark.parametrize("harm", [False, True])
def test_progress_goes_on_over_both_turns(draft: Draft, monkeypatch: pytest.MonkeyPatch, harm: bool) -> None:
    told: list[float] = []
    observer = Observer()
    monkeypatch.setattr(observer, "progress", lambda done, total: told.append(done / total))
    if harm:
        monkeypatch.setattr(Requantized, "helped", False)
    requantized_draft(replace(draft, setting=replace(draft.setting, stages=Stages(observer))))
    assert told == sorted(told)
    assert told[-1] == (0.5 if harm else 1)


def test_a_plan_of_wide_weights_ships_as_it_is(draft: Draft) -> None:
    wide = replace(draft, plan=Plan({layer.name: Option(8) for layer in draft.prepared.layers}))
    assert shipped(wide) is wide


@pytest.mark.parametrize(
    ("tries", "behind", "doubt", "words"),
    [
        (True, 1.0, 0.0, ": soft-kl 2 -> 1 in a trial on 8 other calibration samples"),
        (True, 2.5, 1.0, ": soft-kl 2 -> 2.5 in a trial on 8 other calibration samples, within chance"),
        (
            True, 3.0, 0.0,
            ": soft-kl 2 -> 3 in a trial on 8 other calibration samples, so the first rounding is kept",
        ),
        (False, 3.0, np.inf, ""),
        (False, np.nan, np.inf, ", which broke the network, so the first rounding is kept"),
    ],
)  # fmt: skip
def test_what_is_said(draft: Draft, tries: bool, behind: float, doubt: float, words: str) -> None:
    setting = trying(draft, tries=tries).setting
    assert setting.splits.judging.count == 8
    assert stage.told(Requantized(draft, 2.0, behind, doubt), setting) == words
