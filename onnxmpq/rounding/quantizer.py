"""Weight quantization in plain NumPy: fit a scale per output channel, round, read back.

Symmetric, per output channel (ONNX QuantizeLinear-13, zero point 0):

    code = clip(round(w / scale), lowest(b), highest(b)),    w' = code * scale

The codes reach one step further below zero than above. A channel whose weights reach further above has a negative
scale, which costs nothing in a file and a tenth to a quarter of the squared error less at 2 to 4 bits.

A layer's codes may also be odd, all odd numbers from 1 - 2^b to 2^b - 1, as if they lay halfway between the integers.
One bit has no others, and for two bits the four even levels -3, -1, 1, 3 are often better than -2, -1, 0, 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxmpq.values.arrays import Codes, Floats
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, QuantizedWeight, along, code_range

Nearest = Callable[[Floats], Floats]

_SMALLEST_CLIP = 0.2  # of the channel's largest weight
_COARSE, _FINE = 8, 4  # clips that are tried, and around the best of them
_NARROWER = 3  # bits of a code that halve the distance between clips
_NEXT_TO_NOTHING = 2.0**-16  # of the layer's largest scale
_LEAST_SCALE = float(np.finfo(np.float32).tiny)  # its reciprocal is a float32
_BLOCK = 1 << 15  # weights searched at once


def nearest_codes(low: float | Floats, high: float | Floats, *, odd: bool = False) -> Nearest:
    """Gives weights in steps their nearest codes in a range: ties to even, as QuantizeLinear; odd ones up."""

    def nearest(ratio: Floats) -> Floats:
        codes: Floats = 2 * np.floor(ratio / 2) + 1 if odd else np.rint(ratio)
        # minimum and maximum: np.clip takes three times as long on the short columns that this is called for.
        np.maximum(codes, low, out=codes)
        np.minimum(codes, high, out=codes)
        return codes

    return nearest


def round_to_codes(weight: Floats, scale: Floats, axis: int, bits: int, *, odd: bool = False) -> Codes:
    """Nearest code of each weight (see `nearest_codes`) in the width's range."""
    nearest = nearest_codes(*code_range(bits, odd=odd), odd=odd or bits == 1)
    codes: Codes = nearest(weight / along(scale, axis, weight.ndim)).astype(np.int8)
    return codes


def fit_scale(weight: Floats, axis: int, bits: int, *, negative: bool = True, odd: bool = False) -> Floats:
    """Scale per output channel with the least squared error over a grid of clips, float32 [channels].

    A scale is negative where that is better and `negative` allows it; odd codes need none. A channel of zeros gets
    scale 1, so that its codes are zeros and no scale is zero. For one bit the best scale is the mean magnitude
    (XNOR-Net, eq. 6), and that of a channel of zeros next to nothing.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    if bits == 1:
        return _one_bit_scale(rows)
    low, high = code_range(bits, odd=odd)
    signs = (1, -1) if negative and -low != high else (1,)
    nearest = nearest_codes(low, high, odd=odd)
    # In blocks that stay in the cache: the search reads the same rows dozens of times.
    step = max(1, _BLOCK // max(rows.shape[1], 1))
    return np.concatenate(
        [_search(rows[i : i + step], low, high, nearest, signs) for i in range(0, len(rows), step)]
    )


def _one_bit_scale(rows: Floats) -> Floats:
    """The mean magnitude; one bit has no zero, so a channel of zeros becomes as good as one beside the others."""
    mean = np.abs(rows).mean(axis=1)
    floor = max(float(mean.max(initial=0.0)) * _NEXT_TO_NOTHING, _LEAST_SCALE)
    return np.where(mean > _LEAST_SCALE, mean, floor).astype(np.float32)


def _search(rows: Floats, low: int, high: int, nearest: Nearest, signs: Sequence[int]) -> Floats:
    """Best scale of each row among those of these signs."""
    found, clips = [], _clips(high - low)
    for sign in signs:
        # The full range must reach the largest weight on either side of an asymmetric code range.
        turned = sign * rows
        full = _usable(np.maximum(turned.max(axis=1) / high, turned.min(axis=1) / low))
        found.append(_clipped(rows, np.float32(sign) * full, nearest, clips))
    scales, errors = map(np.stack, zip(*found, strict=True))
    best: Floats = np.take_along_axis(scales, errors.argmin(axis=0)[None], 0)[0]
    return best


def _clips(levels: int) -> tuple[Floats, Floats]:
    """What is taken off a row's full scale: a coarse grid of clips, and a fine one around the best of them.

    The more levels, the nearer the best clip is to none; two of the coarse ones are far off, for rows of heavy tails.
    """
    reach = (1 - _SMALLEST_CLIP) * (3 / levels) ** (1 / _NARROWER)
    near, between = np.linspace(0, reach, _COARSE + 1)[1:], np.arange(1, _FINE // 2 + 1) / (_FINE // 2 + 1)
    far = np.linspace(reach, 1 - _SMALLEST_CLIP, 3)[1:]
    fine = reach / _COARSE * np.concatenate([-between, between])
    return np.concatenate([near, far]).astype(np.float32), fine.astype(np.float32)


def _clipped(
    rows: Floats, full: Floats, nearest: Nearest, clips: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Best share of each row's full scale, and its error."""
    shrink, error = np.ones_like(full), _squared_error(rows, full, nearest)
    for less in clips:
        centre = shrink
        for clip in less:
            trial = np.clip(centre - clip, _SMALLEST_CLIP, 1.0)
            trial_error = _squared_error(rows, full * trial, nearest)
            better = trial_error < error
            shrink, error = np.where(better, trial, shrink), np.where(better, trial_error, error)
    return full * shrink, error


def quantize(weight: Floats, axis: int, bits: int, grids: Grids = EVERY_GRID) -> QuantizedWeight:
    """Round `weight` to the nearest codes of the best scales.

    Raises OptionError for a width outside 1 to 8.
    """
    weight = weight.astype(np.float32, copy=False)
    axis %= weight.ndim
    found = []
    for odd in kinds_of_codes(weight, axis, bits, grids):
        scale = fit_scale(weight, axis, bits, negative=grids.negative, odd=odd)
        codes = round_to_codes(weight, scale, axis, bits, odd=odd)
        found.append(QuantizedWeight(codes, scale, axis, bits, odd))
    return min(found, key=lambda some: float(np.square(some.dequantize() - weight).sum()))


def kinds_of_codes(weight: Floats, axis: int, bits: int, grids: Grids) -> list[bool]:
    """False for all codes of a width, True for odd ones: of two bits, where no channel is of zeros and would not stay so."""
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    odd = bits == 2 and grids.odd and bool(weight.any(axis=others).all())
    return [False] * (grids.even or not odd) + [True] * odd


def _squared_error(rows: Floats, scale: Floats, nearest: Nearest) -> Floats:
    error = rows - nearest(rows / scale[:, None]) * scale[:, None]
    total: Floats = np.einsum("ij,ij->i", error, error)
    return total


def _usable(scale: Floats) -> Floats:
    """Zero scales, and those whose reciprocal overflows, replaced by one."""
    return np.where(scale > _LEAST_SCALE, scale, 1.0).astype(np.float32)
