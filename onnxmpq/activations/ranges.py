"""The quantization of an activation, one scale for the whole tensor: asymmetric uint8, or symmetric int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CODES = 255  # the highest uint8 code; the lowest is 0
_SIGNED_CODES = 127  # the highest int8 code


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Real values are `(code - zero_point) * scale`; codes are uint8, or int8 where `signed` (QuantizeLinear-13)."""

    scale: float
    zero_point: int
    signed: bool = False


def range_of(low: float, high: float, *, signed: bool = False) -> ActivationRange:
    """The quantization that covers [low, high] and represents zero exactly; where `signed`, by the code zero.

    Zero padding and ReLU need an exact zero, so the interval is first widened to hold it; a tensor that is
    zero throughout gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high, -low) / _SIGNED_CODES if signed else (high - low) / _CODES
    scale = float(np.float32(step))
    if scale < np.finfo(np.float32).tiny:
        return ActivationRange(1.0, 0, signed)
    return ActivationRange(scale, 0 if signed else round(-low / scale), signed)


def rounded(values: NDArray[np.floating], activation: ActivationRange) -> NDArray[np.floating]:
    """Values as QuantizeLinear and DequantizeLinear (13, uint8 or int8) leave them, in their own dtype."""
    low, high = (-_SIGNED_CODES - 1, _SIGNED_CODES) if activation.signed else (0, _CODES)
    scale = values.dtype.type(activation.scale)
    codes = np.clip(np.rint(values / scale), low - activation.zero_point, high - activation.zero_point)
    result: NDArray[np.floating] = codes * scale
    return result
