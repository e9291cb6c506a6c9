"""Rounding that keeps sums: errors of a kernel, and of a whole output channel, cancel.

After a ReLU the inputs of a layer are positive and alike within a channel, so what hurts the output is the
sum of a kernel's rounding errors, not their squares. SQuant (Guo et al. 2022, arXiv 2202.07471) minimises a
data-free Hessian of that form by flipping the weights closest to the other side: first within each kernel,
then within each output channel, until the errors' sum is at most half a step.
"""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.rounding.quantizer import fit_scale, round_to_codes
from onnxmpq.values.arrays import Codes, Floats
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, QuantizedWeight, along, code_range


def quantize_balanced(weight: Floats, axis: int, bits: int, grids: Grids = EVERY_GRID) -> QuantizedWeight:
    """Round `weight` at the scales of least squared error so that the errors' sums cancel.

    `weight` is float32 of any shape with output channels along `axis`; the two axes of a matrix have no
    kernels, and one bit leaves nothing to flip. Raises OptionError for a width outside 1 to 8.
    """
    weight = weight.astype(np.float32, copy=False)
    axis %= weight.ndim
    scale = fit_scale(weight, axis, bits, negative=grids.negative)
    codes = round_to_codes(weight, scale, axis, bits)
    if bits > 1:
        codes = balance(codes, weight / along(scale, axis, weight.ndim), axis, bits)
    return QuantizedWeight(codes, scale, axis, bits)


def balance(codes: Codes, exact: Floats, axis: int, bits: int) -> Codes:
    """Codes with the sums of `exact` (the weight in steps), kernel by kernel, then channel by channel."""
    first = np.moveaxis(codes, axis, 0)
    ratio = np.moveaxis(exact, axis, 0)
    kernel = math.prod(first.shape[2:])
    channel = first.size // max(len(first), 1)
    flat = first.astype(np.float32)
    for size in (kernel, channel) if kernel > 1 else (channel,):
        rows = flat.reshape(-1, size)
        flat = _keep_sums(rows, ratio.reshape(-1, size), bits).reshape(first.shape)
    return np.ascontiguousarray(np.moveaxis(flat, 0, axis)).astype(np.int8)


def _keep_sums(rows: Floats, exact: Floats, bits: int) -> Floats:
    """Flip in each row as many codes as its errors' sum is steps, those that are nearest to the other side."""
    low, high = code_range(bits)
    error = rows - exact
    total = error.sum(axis=1, keepdims=True)
    step = np.sign(total)
    flipped = rows - step
    # Only a code that was rounded the way the sum errs can be flipped back, and only within the range.
    gain = np.where((flipped >= low) & (flipped <= high), error * step, -1.0)
    order = np.argsort(-gain, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(rows.shape[1])[None, :], axis=1)
    return np.where((rank < np.rint(np.abs(total))) & (gain > 0), flipped, rows)
