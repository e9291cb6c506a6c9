"""A weight as it is stored: codes, and a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import OptionError
from onnxmpq.values.arrays import Codes, Floats

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight as it is stored: `codes` int8 of the weight's own shape, `scale` float32 [channels], none of them zero.

    `axis` is the output-channel axis that `scale` runs along, the last of several where a scale has as many dimensions.
    `bits` is the width that holds every code; `odd` codes are odd numbers, and those of one bit always are.
    """

    codes: Codes
    scale: Floats
    axis: int
    bits: int
    odd: bool = False

    @property
    def is_odd(self) -> bool:
        """True where every code is odd."""
        return self.odd or self.bits == 1

    def dequantize(self) -> Floats:
        """The float32 weight the stored codes stand for, in the weight's own shape."""
        return self.codes.astype(np.float32) * along(self.scale, self.axis, self.codes.ndim)


@dataclass(frozen=True, slots=True)
class Grids:
    """Which codes and scales a file may hold: scales below zero; of two bits, odd codes, and others."""

    negative: bool = True
    odd: bool = True
    even: bool = True


EVERY_GRID = Grids()


def code_range(bits: int, *, odd: bool = False) -> tuple[int, int]:
    """Lowest and highest code of a width; 8 bits leave -128 out so that the grid is symmetric.

    One bit has the two codes -1 and +1 (there is no zero).
    """
    if bits == 1 or (odd and bits < 8):
        return 1 - 2**bits, 2**bits - 1
    if bits == 8:
        return -127, 127
    if 2 <= bits < 8:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    raise OptionError(f"a width of {bits} bits was asked for; widths from 1 to 8 can be stored")


def along(values: NDArray[Number], axis: int, ndim: int) -> NDArray[Number]:
    """`values` reshaped to broadcast along the axes that end with `axis` of an array of `ndim` dimensions."""
    last = axis % ndim + 1
    return values.reshape([1] * (last - values.ndim) + [*values.shape] + [1] * (ndim - last))
