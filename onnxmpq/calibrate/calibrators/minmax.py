"""Min-max: nothing is clipped."""

from __future__ import annotations

from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.values.activation_range import CodeType


def minmax(seen: Statistics, _codes: CodeType) -> tuple[float, float]:
    """The lowest and the highest value of all samples."""
    return seen.lowest, seen.highest
