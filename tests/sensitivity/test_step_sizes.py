"""How steps are trained: the ranges of codes, the descent, its rate and what the outputs are compared with."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.sensitivity.step_sizes import Parameter, StepTraining, code_range, smoothed_labels


def test_what_is_never_negative_has_codes_from_zero() -> None:
    lowest, highest = code_range([8, 2], np.array([True, False]))
    assert lowest.tolist() == [[-128, -2], [0, 0]]
    assert highest.tolist() == [[127, 1], [255, 3]]


def test_a_descent_follows_the_gradient_and_the_decay() -> None:
    parameter = Parameter(np.array([1.0]))
    parameter.gradient = np.array([0.5])
    parameter.update(0.1, StepTraining(decay=0.2))
    assert parameter.value == pytest.approx(0.93)
    assert not parameter.gradient.any()


def test_a_label_is_smoothed_over_all_classes() -> None:
    target = smoothed_labels(np.array([0, 2]), 3, 0.3)
    np.testing.assert_allclose(target, [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6)


def test_the_rate_falls_from_the_first_to_the_last() -> None:
    training = StepTraining(rate=0.1, last_rate=0.02)
    rates = [training.rate_after(done / 100) for done in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.06)
    assert rates[100] == pytest.approx(0.02)
    assert rates == sorted(rates, reverse=True)
