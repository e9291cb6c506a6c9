"""Weight quantization in plain NumPy: fit a scale per output channel, round, read back.

Symmetric, per output channel (ONNX QuantizeLinear-13, zero point 0):

    code = clip(round(w / scale), lowest(b), highest(b)),    w' = code * scale

The codes reach one step further below zero than above. A channel whose weights reach further above has a negative
scale, which costs nothing in a file and a tenth to a quarter of the squared error less at 2 to 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import OptionError

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

_SMALLEST_CLIP = 0.2  # of the channel's largest weight
_COARSE = -np.linspace(0.0, 0.8, 25, dtype=np.float32)[1:]
_FINE = np.linspace(-0.03, 0.03, 9, dtype=np.float32)
_BLOCK = 1 << 15  # weights searched at once


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight as it is stored: `codes` int8 of the weight's own shape, `scale` float32 [channels], none of them zero.

    `axis` is the output-channel axis that `scale` runs along, `bits` the width that holds every code.
    """

    codes: Codes
    scale: Floats
    axis: int
    bits: int

    def dequantize(self) -> Floats:
        """The float32 weight the stored codes stand for, in the weight's own shape."""
        return self.codes.astype(np.float32) * along(self.scale, self.axis, self.codes.ndim)


def code_range(bits: int) -> tuple[int, int]:
    """Lowest and highest code of a width; 8 bits leave -128 out so that the grid is symmetric.

    One bit has the two codes -1 and +1 (there is no zero).
    """
    if bits == 1:
        return -1, 1
    if bits == 8:
        return -127, 127
    if 2 <= bits < 8:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    raise OptionError(f"a width of {bits} bits was asked for; widths from 1 to 8 can be stored")


def along(values: Floats, axis: int, ndim: int) -> Floats:
    """`values` [n] reshaped to broadcast along `axis` of an array of `ndim` dimensions."""
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def round_to_codes(weight: Floats, scale: Floats, axis: int, bits: int) -> Codes:
    """Nearest code of each weight (ties to even, as QuantizeLinear), clipped to the width's range."""
    ratio = weight / along(scale, axis, weight.ndim)
    if bits == 1:
        return np.where(ratio >= 0, np.int8(1), np.int8(-1))
    low, high = code_range(bits)
    codes: Codes = np.clip(np.rint(ratio), low, high).astype(np.int8)
    return codes


def fit_scale(weight: Floats, axis: int, bits: int, *, negative: bool = True) -> Floats:
    """Scale per output channel with the least squared error over a grid of clips, float32 [channels].

    A scale is negative where that is better and `negative` allows it. A channel of zeros gets scale 1, so that its
    codes are zeros and no scale is zero. For one bit the best scale is the mean magnitude (XNOR-Net, eq. 6).
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    if bits == 1:
        return _usable(np.abs(rows).mean(axis=1))
    low, high = code_range(bits)
    signs = (1, -1) if negative and -low != high else (1,)
    # In blocks that stay in the cache: the search reads the same rows dozens of times.
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    return np.concatenate([_search(rows[i : i + step], bits, signs) for i in range(0, len(rows), step)])


def _search(rows: Floats, bits: int, signs: Sequence[int]) -> Floats:
    """Best scale of each row among those of these signs."""
    low, high = code_range(bits)
    found = []
    for sign in signs:
        # The full range must reach the largest weight on either side of an asymmetric code range.
        turned = sign * rows
        full = _usable(np.maximum(turned.max(axis=1) / high, turned.min(axis=1) / low))
        found.append(_clipped(rows, np.float32(sign) * full, low, high))
    scales, errors = map(np.stack, zip(*found, strict=True))
    best: Floats = np.take_along_axis(scales, errors.argmin(axis=0)[None], 0)[0]
    return best


def _clipped(rows: Floats, full: Floats, low: int, high: int) -> tuple[Floats, Floats]:
    """Best share of each row's full scale, and its error: a coarse grid of clips, then a fine one around the best."""
    shrink, error = np.ones_like(full), _squared_error(rows, full, low, high)
    for offsets in (_COARSE, _FINE):
        centre = shrink
        for offset in offsets:
            trial = np.clip(centre + offset, _SMALLEST_CLIP, 1.0).astype(np.float32)
            trial_error = _squared_error(rows, full * trial, low, high)
            better = trial_error < error
            shrink, error = np.where(better, trial, shrink), np.where(better, trial_error, error)
    return full * shrink, error


def quantize(weight: Floats, axis: int, bits: int, *, negative: bool = True) -> QuantizedWeight:
    """Round `weight` to the nearest codes of the best scales, of either sign where `negative` allows it.

    Raises OptionError for a width outside 1 to 8.
    """
    weight = weight.astype(np.float32, copy=False)
    axis %= weight.ndim
    scale = fit_scale(weight, axis, bits, negative=negative)
    return QuantizedWeight(round_to_codes(weight, scale, axis, bits), scale, axis, bits)


def _squared_error(rows: Floats, scale: Floats, low: int, high: int) -> Floats:
    error = rows - np.clip(np.rint(rows / scale[:, None]), low, high) * scale[:, None]
    total: Floats = np.einsum("ij,ij->i", error, error)
    return total


def _usable(scale: Floats) -> Floats:
    """Zero scales, and those whose reciprocal overflows, replaced by one."""
    return np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
