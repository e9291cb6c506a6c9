"""Min-max: nothing is clipped."""

from __future__ import annotations

from onnxmpq.activations.ranges import CodeType
from onnxmpq.activations.statistics import Statistics


def minmax(seen: Statistics, _codes: CodeType) -> tuple[float, float]:
    """The lowest and the highest value of all samples."""
    return seen.lowest, seen.highest
