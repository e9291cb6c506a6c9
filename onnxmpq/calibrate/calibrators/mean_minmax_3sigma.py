"""Typical extremes: a rare outlier costs itself, and not the resolution of all other values."""

from __future__ import annotations

from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.values.activation_range import CodeType


def mean_minmax_3sigma(seen: Statistics, _codes: CodeType, deviations: float = 3.0) -> tuple[float, float]:
    """From the mean of the samples' lowest values less `deviations` standard deviations, to the highest likewise.

    Never beyond what was seen.
    """
    low = seen.mean_lowest - deviations * seen.deviation_lowest
    high = seen.mean_highest + deviations * seen.deviation_highest
    return max(low, seen.lowest), min(high, seen.highest)
