"""Scales and biases in half precision: eleven bits of each, where weights have eight at most.

Scales of weights are small, and a BatchNorm folded into a layer makes some channels' next to nothing. So they are
halves in units of 2^-12, of full precision from 1.5e-8 to 16.
"""

from __future__ import annotations

import numpy as np

from onnxmpq.passes.lower.halve_constants import SCALE_UNIT
from onnxmpq.values.arrays import Array, Floats

_LEAST_WEIGHT, _MOST_WEIGHT = 2.0**-19, 8.0  # between them the scales of any width are of full precision
_LEAST_HALF = float(np.finfo(np.float16).smallest_subnormal)
_BIAS_ERROR = 2.0**-11  # of the largest bias


def has_half_scales(weight: Array, axis: int) -> bool:
    """True where half precision holds the scales of a weight at every width: no channel but zeros is next to nothing."""
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others, initial=0)
    return bool(np.all((largest == 0) | ((largest >= _LEAST_WEIGHT) & (largest <= _MOST_WEIGHT))))


def half_scales(scale: Floats) -> Floats:
    """The nearest scales that half precision holds, none of them zero; as they are where one is beyond it."""
    with np.errstate(over="ignore"):
        halves = (scale / np.float32(SCALE_UNIT)).astype(np.float16).astype(np.float32)
    if not np.isfinite(halves).all():
        return scale
    least = np.copysign(np.float32(_LEAST_HALF), scale)
    held: Floats = np.where(halves == 0, least, halves) * np.float32(SCALE_UNIT)
    return held


def half_bias(bias: Array) -> Array:
    """The nearest bias that half precision holds, the bias itself where that is not near enough."""
    with np.errstate(over="ignore"):
        held = bias.astype(np.float16).astype(bias.dtype)
    near = np.abs(held - bias).max(initial=0) <= _BIAS_ERROR * np.abs(bias).max(initial=0)
    return held if near else bias
