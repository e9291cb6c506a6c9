"""MSE: what clipping loses against what a finer step wins, in squared error of the values."""

from __future__ import annotations

import numpy as np

from onnxmpq.activations.calibrators.clip import cheapest
from onnxmpq.activations.ranges import ActivationRange, CodeType, rounded
from onnxmpq.activations.statistics import Histogram, Statistics


def mse(seen: Statistics, codes: CodeType) -> tuple[float, float]:
    """The interval whose quantization has the least mean squared error."""
    return cheapest(seen, codes, squared_error)


def squared_error(histogram: Histogram, activation: ActivationRange) -> float:
    """Sum of squared errors, every value taken for the centre of its bin."""
    centres = histogram.centres
    return float(histogram.counts @ np.square(rounded(centres, activation) - centres))
