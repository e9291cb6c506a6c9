"""Percentile: a fixed share of the values is clipped (Wu et al., arXiv 2004.09602, section 3.2)."""

from __future__ import annotations

import numpy as np

from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.values.activation_range import CodeType


def percentile(seen: Statistics, _codes: CodeType, percent: float = 99.99) -> tuple[float, float]:
    """The bins below and above which lie no more than `100 - percent` per cent of the values each."""
    counts, centres = seen.histogram.counts, seen.histogram.centres
    beyond = counts.sum() * (1 - percent / 100)
    low = centres[np.argmax(np.cumsum(counts) > beyond)]
    high = centres[::-1][np.argmax(np.cumsum(counts[::-1]) > beyond)]
    return float(low), float(high)
