"""MSE: what clipping loses against what a finer step wins, in squared error of the values."""

from __future__ import annotations

import numpy as np

from onnxmpq.calibrate.calibrators.clip import cheapest
from onnxmpq.calibrate.statistics import Histogram, Statistics
from onnxmpq.values.activation_range import ActivationRange, CodeType, rounded


def mse(seen: Statistics, codes: CodeType) -> tuple[float, float]:
    """The interval whose quantization has the least mean squared error."""
    return cheapest(seen, codes, squared_error)


def squared_error(histogram: Histogram, activation: ActivationRange) -> float:
    """Sum of squared errors, every value taken for the centre of its bin."""
    centres = histogram.centres
    return float(histogram.counts @ np.square(rounded(centres, activation) - centres))
