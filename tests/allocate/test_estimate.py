"""The estimate: grows with the work, and is said only where it is long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from onnxmpq.allocate import estimate as stage
from onnxmpq.allocate.estimate import (
    announce,
    estimate,
    forwards_ahead,
    plans_requantized,
    rounding_seconds,
    seconds_a_sample,
)
from onnxmpq.lower.draft import Lowering
from onnxmpq.request import parse_budgets
from onnxmpq.rounding.stage import factoring, work
from onnxmpq.sensitivity.methods import METHODS, counts_evaluations
from onnxmpq.sensitivity.methods.measured import at_every_width, measured
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.costs import CostTable

Lower = Callable[..., Lowering]


def test_an_estimate_is_forwards_and_rounding(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = lower_classifier(rounding="compensated").setting
    assert forwards_ahead(setting) > setting.splits.rounding.count
    assert rounding_seconds(setting) > 0
    assert seconds_a_sample(setting) > 0
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 2.0)
    assert estimate(setting) == 2 * forwards_ahead(setting) + rounding_seconds(setting)


def test_a_sample_takes_its_share_of_a_batch(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = lower_classifier().setting
    four = replace(setting, prepared=replace(setting.prepared, batch_size=4))
    monkeypatch.setattr(stage, "time", SimpleNamespace(perf_counter=iter([1.0, 9.0]).__next__))
    assert seconds_a_sample(four) == 2


def test_a_budget_on_loss_requantizes_many_plans(lower_classifier: Lower) -> None:
    once, often = (
        lower_classifier(rounding="compensated", budgets=parse_budgets([budget])).setting
        for budget in ("5bit-avg", "drop=20%")
    )
    assert plans_requantized(once) == 1
    assert plans_requantized(often) == 1 + 2 + 7  # from 8 bits to 4, until within half a percent
    assert forwards_ahead(often) > 2 * forwards_ahead(once)


def test_what_is_not_done_is_not_in_the_estimate(lower_classifier: Lower) -> None:
    compensated = lower_classifier(rounding="compensated").setting
    nearest = lower_classifier(rounding="nearest").setting
    assert rounding_seconds(nearest) == 0
    forced_nearest = lower_classifier(rounding="nearest", budgets=parse_budgets(["8bit-avg"])).setting
    assert forwards_ahead(forced_nearest) == 0
    forced = lower_classifier(rounding="compensated", budgets=parse_budgets(["8bit-avg"])).setting
    layers = forced.prepared.layers
    once = work(layers, {name: [8] for name in forced.options}) + factoring(layers)
    assert rounding_seconds(forced) * stage._PRODUCTS == pytest.approx(once)
    effort, samples = forced.request.effort, forced.splits.rounding.count
    assert forwards_ahead(forced) == effort.learning(
        samples, 0, forced.augmentations.count
    )  # nothing measured, nothing requantized
    requantizes = lower_classifier(rounding="compensated", budgets=parse_budgets(["4bit-avg"])).setting
    assert forwards_ahead(requantizes) == effort.learning(
        samples, 1, requantizes.augmentations.count
    )  # one plan is left, but it is requantized
    assert rounding_seconds(requantizes) > rounding_seconds(forced)
    assert rounding_seconds(compensated) * stage._PRODUCTS > 4 * once


def test_few_rows_of_many_columns_take_as_long_as_their_matrix(lower_classifier: Lower) -> None:
    layers = lower_classifier(rounding="compensated").setting.prepared.layers
    wide = replace(layers[0], shape=(3, 256, 3, 3))
    widths = {wide.name: [2, 3, 4, 5, 6, 8]}
    assert factoring([wide]) > work([wide], widths)
    grouped = replace(wide, shape=(3, 128, 3, 3), group=2)
    assert factoring([wide]) == pytest.approx(4 * factoring([grouped]), rel=0.01)


def test_layers_that_too_few_windows_are_known_of_take_no_time(lower_classifier: Lower) -> None:
    setting = lower_classifier(rounding="compensated").setting
    *others, last = setting.prepared.layers
    rare = replace(last, shape=(512, 5), macs=1)
    known = replace(rare, macs=64 * rare.params)
    fewer, more = (replace(setting.prepared, layers=(*others, layer)) for layer in (rare, known))
    without = replace(setting.prepared, layers=tuple(others))
    seconds = [rounding_seconds(replace(setting, prepared=some)) for some in (without, fewer, more)]
    assert seconds[0] == seconds[1] < seconds[2]


def test_requantizing_that_is_tried_first_takes_two_turns(lower_classifier: Lower) -> None:
    setting = lower_classifier(rounding="compensated").setting
    layers = setting.prepared.layers
    widths = {n: [o.weight_bits for o in c] for n, c in setting.choices.items()}
    none = work(layers, widths) + factoring(layers)
    turns = []
    for tries in (False, True):
        request = replace(setting.request, effort=replace(setting.request.effort, tries=tries))
        turns.append(rounding_seconds(replace(setting, request=request)) * stage._PRODUCTS - none)
    assert turns[1] == pytest.approx(2 * turns[0])
    assert turns[0] > 0


def test_it_is_said_where_it_is_long(lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = lower_classifier(method=METHODS["measured"], rounding="compensated").setting
    announce(setting)
    assert not any("ahead" in note for note in setting.stages.notes)
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 1.0)
    announce(setting)
    assert any("min ahead at --effort" in note for note in setting.stages.notes)


def test_what_other_methods_take_is_not_known(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 1.0)
    setting = lower_classifier(method=METHODS["size"], rounding="compensated").setting
    announce(setting)
    assert any(note.endswith("besides what the method takes") for note in setting.stages.notes)
    nothing = lower_classifier(method=METHODS["size"], rounding="nearest").setting
    announce(nothing)
    assert not any("ahead" in note for note in nothing.stages.notes)


@pytest.mark.parametrize("name", ["greedy", "semilayer"])
def test_what_evaluating_takes_is_known(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 1.0)
    method = METHODS[name]
    assert counts_evaluations(method)
    some = lower_classifier(method=method, rounding="nearest").setting
    counts = method.evaluations(some.prepared.layers, some.options)
    assert 0 < forwards_ahead(some) < sum(counts.values()) * some.splits.sensitivity.count
    announce(some)
    assert any("ahead" in note and "besides" not in note for note in some.stages.notes)
    fewer = replace(method, images=4)  # type: ignore[type-var]
    assert forwards_ahead(lower_classifier(method=fewer, rounding="nearest").setting) == pytest.approx(
        forwards_ahead(some) * 4 / some.splits.sensitivity.count
    )


def test_measuring_with_options_is_known_too(lower_classifier: Lower) -> None:
    some, all_ = (
        forwards_ahead(lower_classifier(method=m, rounding="nearest").setting)
        for m in (measured, at_every_width)
    )
    assert 0 < some < all_


def test_a_method_of_the_users_may_have_any_attributes() -> None:
    class Mine:
        images = 3
        evaluations = 0

        def __call__(self, _probe: Probe) -> CostTable:
            return CostTable({}, "kl", "mine", 0)

    assert not counts_evaluations(Mine())
