"""How steps are trained: the ranges of codes, the descent, its rate and what the outputs are compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxmpq.sensitivity.step_sizes import StepTraining, _Learner, _Parameter, learn_steps
from onnxmpq.testing import classifier, labelled, probe_of
from onnxmpq.values.output_kind import OutputKind


def bare(**fields: Any) -> _Learner:
    """A learner that has these fields and no network."""
    learner = object.__new__(_Learner)
    for name, value in fields.items():
        setattr(learner, name, value)
    return learner


def test_what_is_never_negative_has_codes_from_zero() -> None:
    learner = bare(widths=[8, 2], layers=[None, None], signed=np.array([True, False]))
    assert learner._lowest("weight").tolist() == [[-128, -2], [-128, -2]]
    assert learner._highest("weight").tolist() == [[127, 1], [127, 1]]
    assert learner._lowest("activation").tolist() == [[-128, -2], [0, 0]]
    assert learner._highest("activation").tolist() == [[127, 1], [255, 3]]


def test_a_descent_follows_the_gradient_and_the_decay() -> None:
    parameter = _Parameter(np.array([1.0]))
    parameter.gradient = np.array([0.5])
    parameter.descend(0.1, StepTraining(decay=0.2))
    assert parameter.value == pytest.approx(0.93)
    assert not parameter.gradient.any()


def test_a_label_is_smoothed_over_all_classes() -> None:
    learner = bare(
        training=StepTraining(smoothing=0.3),
        outcomes=3,
        shape=(3,),
        dtype=np.float64,
        kind=OutputKind.PROBABILITIES,
    )
    batch: Any = SimpleNamespace(count=2, given_labels=np.array([0, 2]))
    target = learner._target(batch)
    np.testing.assert_allclose(target, [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6)
    assert target.dtype == np.float64


def test_the_rate_falls_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(_Learner, "learn", lambda _self, _batch, rate, _rng: rates.append(rate))
    probe = probe_of(classifier(), labelled(classifier()))
    learn_steps(StepTraining(least=100, rate=0.1, last_rate=0.02), probe, probe.data)
    assert rates[0] == pytest.approx(0.1)
    assert rates[len(rates) // 2] == pytest.approx(0.06)
    assert rates == sorted(rates, reverse=True)
    assert 0.02 <= rates[-1] < 0.0201
