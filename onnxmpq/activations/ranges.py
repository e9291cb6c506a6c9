"""The quantization of an activation: asymmetric uint8, one scale and one zero point for the whole tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CODES = 255  # the highest code; the lowest is 0


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Real values are `(code - zero_point) * scale`; codes are uint8 (QuantizeLinear-13, saturating)."""

    scale: float
    zero_point: int


def range_of(low: float, high: float) -> ActivationRange:
    """The quantization that covers [low, high] and represents zero exactly.

    Zero padding and ReLU need an exact zero, so the interval is first widened to hold it; a tensor that is
    zero throughout gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / _CODES))
    if scale < np.finfo(np.float32).tiny:
        return ActivationRange(1.0, 0)
    return ActivationRange(scale, round(-low / scale))


def rounded(values: NDArray[np.floating], activation: ActivationRange) -> NDArray[np.floating]:
    """Values as QuantizeLinear and DequantizeLinear (13, uint8) leave them, in their own dtype."""
    low, high = -activation.zero_point, _CODES - activation.zero_point
    scale = values.dtype.type(activation.scale)
    codes = np.clip(np.rint(values / scale), low, high)
    result: NDArray[np.floating] = codes * scale
    return result
