"""Entropy: the clipped values' distribution against that of their codes (Migacz, "8-bit inference with TensorRT", 2017)."""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.calibrate.calibrators.clip import cheapest
from onnxmpq.calibrate.statistics import Histogram, Statistics
from onnxmpq.values.activation_range import ActivationRange, CodeType

_LEAST = 1e-12  # probability: what was clipped may fall where the codes hold nothing


def entropy(seen: Statistics, codes: CodeType) -> tuple[float, float]:
    """The interval with the least KL divergence between values and codes."""
    return cheapest(seen, codes, divergence)


def divergence(histogram: Histogram, activation: ActivationRange) -> float:
    """KL(values || codes) in nats, inf where nothing lies inside.

    As published: values beyond the ends count to the outermost bins inside; a code's share is spread evenly over its
    bins that hold any, without what was clipped. Zero is left out: every range represents it exactly.
    """
    counts = np.where(histogram.first + np.arange(len(histogram.counts)) == 0, 0, histogram.counts)
    codes = np.rint(histogram.centres / activation.scale).astype(np.int64) + activation.zero_point
    inside = np.flatnonzero((codes >= activation.codes.lowest) & (codes <= activation.codes.highest))
    if not counts[inside].any():
        return math.inf if counts.any() else 0.0
    values = counts[inside].astype(np.float64)
    values[0] += counts[: inside[0]].sum()
    values[-1] += counts[inside[-1] + 1 :].sum()
    held = values > 0
    groups = codes[inside][held] - activation.codes.lowest
    shares = np.bincount(groups, counts[inside][held]) / np.maximum(np.bincount(groups), 1)
    values, spread = values[held] / values.sum(), shares[groups] / counts[inside].sum()
    return float(values @ np.log(values / np.maximum(spread, _LEAST)))
