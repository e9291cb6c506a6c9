"""The quantization of an activation, one scale for the whole tensor: asymmetric unsigned codes, or symmetric signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper


@dataclass(frozen=True, slots=True)
class CodeType:
    """The integers that hold a quantized activation: unsigned, or `signed` around the zero point 0."""

    bits: int = 8
    signed: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's, or that of ml_dtypes for 4 bits."""
        kind = TensorProto.DataType.Value(f"{'' if self.signed else 'U'}INT{self.bits}")
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return (1 << (self.bits - self.signed)) - 1


UINT8 = CodeType()
INT8 = CodeType(signed=True)


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Real values are `(code - zero_point) * scale` (QuantizeLinear-13)."""

    scale: float
    zero_point: int
    codes: CodeType = UINT8


def range_of(low: float, high: float, codes: CodeType = UINT8) -> ActivationRange:
    """The quantization that covers [low, high] and represents zero exactly; where signed, by the code zero.

    Zero padding and ReLU need an exact zero, so the interval is first widened to hold it; a tensor that is
    zero throughout gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = (max(high, -low) if codes.signed else high - low) / codes.highest
    scale = float(np.float32(step))
    if scale < np.finfo(np.float32).tiny:
        return ActivationRange(1.0, 0, codes)
    return ActivationRange(scale, 0 if codes.signed else round(-low / scale), codes)


def rounded(values: NDArray[np.floating], activation: ActivationRange) -> NDArray[np.floating]:
    """Values as QuantizeLinear and DequantizeLinear (13, one scale) leave them, in their own dtype."""
    low, high = activation.codes.lowest, activation.codes.highest
    scale = values.dtype.type(activation.scale)
    with np.errstate(over="ignore"):  # steps beyond all floats are clipped as others are
        steps = np.rint(values / scale)
    codes = np.clip(steps, low - activation.zero_point, high - activation.zero_point)
    result: NDArray[np.floating] = codes * scale
    return result
