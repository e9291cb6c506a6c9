"""The quantization of an activation: asymmetric uint8, one scale and one zero point for the whole tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_CODES = 255  # the highest code; the lowest is 0
_LARGEST_BIAS = 2.0**30  # half of INT32: the products are added to it


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Real values are `(code - zero_point) * scale`; codes are uint8 (QuantizeLinear-13, saturating)."""

    scale: float
    zero_point: int

    def least_weight_scale(self, bias: NDArray[Any]) -> Floats:
        """The least weight scale per channel with which `bias` fits in INT32, float32 of the bias's shape.

        A layer's bias is stored in units of (input scale x weight scale): where a channel's weights are nearly
        zero, so is that unit, and a bias of ordinary size would overflow.
        """
        least: Floats = (np.abs(bias) / (_LARGEST_BIAS * self.scale)).astype(np.float32)
        return least


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
