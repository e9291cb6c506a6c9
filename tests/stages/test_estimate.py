"""The estimate: grows with the work, and is said only where it is long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from onnxmpq.request import parse_budgets
from onnxmpq.sensitivity import METHODS
from onnxmpq.stages import estimate as stage
from onnxmpq.stages.estimate import announce, estimate, plans_settled, rounding_seconds, seconds_a_sample
from onnxmpq.stages.lowering import Lowering
from onnxmpq.stages.round import work

Lower = Callable[..., Lowering]


def test_an_estimate_is_forwards_and_rounding(lower_classifier: Lower) -> None:
    setting = lower_classifier(rounding="compensated").setting
    rounding = rounding_seconds(setting)
    assert estimate(setting, 2.0) - rounding == pytest.approx(2 * (estimate(setting, 1.0) - rounding))
    assert estimate(setting, 0.0) == rounding > 0
    assert estimate(setting, 1.0) > setting.shares.rounding.count
    assert seconds_a_sample(setting) > 0


def test_a_budget_on_loss_settles_many_plans(lower_classifier: Lower) -> None:
    once, often = (
        lower_classifier(rounding="compensated", budgets=parse_budgets([budget])).setting
        for budget in ("5bit-avg", "drop=5%")
    )
    assert plans_settled(once) == 1
    assert plans_settled(often) == 1 + 2 + 7  # from 8 bits to 4, until within half a percent
    assert estimate(often, 1.0) > 2 * estimate(once, 1.0)


def test_what_is_not_done_is_not_in_the_estimate(lower_classifier: Lower) -> None:
    compensated = lower_classifier(rounding="compensated").setting
    nearest = lower_classifier(rounding="nearest").setting
    assert rounding_seconds(nearest) == 0
    forced = lower_classifier(rounding="compensated", budgets=parse_budgets(["8bit-avg"])).setting
    once = work(forced.prepared.layers, {name: [8] for name in forced.options})
    assert estimate(forced, 1.0) * stage._PRODUCTS == pytest.approx(once)  # no forwards, no settling
    assert rounding_seconds(compensated) * stage._PRODUCTS > 4 * once


def test_settling_that_is_tried_first_takes_two_turns(lower_classifier: Lower) -> None:
    setting = lower_classifier(rounding="compensated").setting
    none = work(setting.prepared.layers, {n: [o.weight_bits for o in c] for n, c in setting.choices.items()})
    turns = []
    for tries in (False, True):
        request = replace(setting.request, effort=replace(setting.request.effort, tries=tries))
        turns.append(rounding_seconds(replace(setting, request=request)) * stage._PRODUCTS - none)
    assert turns[1] == pytest.approx(2 * turns[0])
    assert turns[0] > 0


def test_it_is_said_where_it_is_long(lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = lower_classifier(method=METHODS["measured"]).setting
    announce(setting)
    assert not any("ahead" in note for note in setting.stages.notes)
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 1.0)
    announce(setting)
    assert any("min ahead at --effort" in note for note in setting.stages.notes)


def test_nothing_is_said_where_nothing_is_measured(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "seconds_a_sample", lambda _: 1.0)
    for asked in (
        {"method": METHODS["size"]},
        {"method": METHODS["measured"], "budgets": parse_budgets(["8bit-avg"])},
    ):
        setting = lower_classifier(**asked).setting
        announce(setting)
        assert not any("ahead" in note for note in setting.stages.notes)
