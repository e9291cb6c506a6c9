"""The estimate: grows with the work, and is said only where it is long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxmpq.request import parse_budgets
from onnxmpq.sensitivity import METHODS
from onnxmpq.stages import estimate as stage
from onnxmpq.stages.estimate import announce, estimate, seconds_a_sample
from onnxmpq.stages.lowering import Lowering

Lower = Callable[..., Lowering]


def test_an_estimate_is_in_proportion_to_one_forward(lower_classifier: Lower) -> None:
    setting = lower_classifier().setting
    assert estimate(setting, 2.0) == pytest.approx(2 * estimate(setting, 1.0))
    assert estimate(setting, 1.0) > setting.shares.rounding.count
    assert seconds_a_sample(setting) > 0


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
