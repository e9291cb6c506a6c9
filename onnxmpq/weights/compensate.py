"""Error-compensated rounding: each column's rounding error is made up for by the columns not yet rounded.

GPTQ (Frantar et al. 2022, arXiv 2210.17323), the fixed-order form of optimal brain quantization (Frantar and
Alistarh 2022, arXiv 2208.11580). For the rows w of a layer and H = sum x x^T of its inputs it walks the columns
j in order of falling H[j,j] and, with U the upper Cholesky factor of the damped H^-1,

    q_j = round(w_j / s) s,     w_k -= (w_j - q_j) U[j,k] / U[j,j]   for all k > j

All widths of a layer are rounded together: they share H, its factor and the order. Where the layer has a bias,
the bias takes up the mean of the error (Nagel et al. 2019, arXiv 1906.04721, section 4.2) and H is centred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onnxmpq.spec import Layer
from onnxmpq.weights.gram import Doubles, Moments
from onnxmpq.weights.quantizer import Codes, Floats, QuantizedWeight, code_range, fit_scale

_DAMPING = (0.01, 0.1, 1.0)  # of the mean diagonal of H: the first that leaves it positive definite
_BLOCK = 64  # columns whose errors are carried on at once

Stack = NDArray[np.float32]  # [group, rows, D], the rows of all widths one after another


def compensate(
    weight: Floats, layer: Layer, moments: Moments, widths: Sequence[int]
) -> Mapping[int, QuantizedWeight]:
    """`weight` (float32, the layer's shape) rounded at each width in 2 to 8 to disturb the layer's output least.

    Scales are those of least squared error.
    """
    if not widths:
        return {}
    gram = moments.gram if layer.bias is None else moments.covariance()
    rows = to_rows(weight, layer)
    scales = {bits: fit_scale(weight, layer.axis, bits) for bits in widths}
    stack = np.concatenate([rows] * len(widths), axis=1)
    steps = np.concatenate([_row_scales(scales[bits], layer, rows.shape[1]) for bits in widths], axis=1)
    bounds = np.array([code_range(bits) for bits in widths], np.float32).repeat(rows.shape[1], axis=0)
    with threadpool_limits(
        limits=1
    ):  # BLAS adds up in another order on more threads: other bits, other codes
        codes = _walk(stack, steps, bounds[None, :, 0], bounds[None, :, 1], gram)
    split = np.split(codes, len(widths), axis=1)
    return {
        bits: QuantizedWeight(from_rows(part, layer), scales[bits], layer.axis, bits)
        for bits, part in zip(widths, split, strict=True)
    }


def bias_shift(weight: Floats, rounded: Floats, layer: Layer, moments: Moments) -> Floats:
    """What a layer's bias must gain so that its mean output stays: (w - w') E[x], float32 [channels]."""
    lost = to_rows(weight - rounded, layer) @ moments.mean[:, :, None]
    return lost.reshape(-1).astype(np.float32)


def to_rows(weight: Floats, layer: Layer) -> Stack:
    """The weight as [group, rows, D]: a row for every output channel of a group (ConvTranspose: and tap)."""
    group = layer.group
    if layer.op == "Conv":
        return weight.reshape(group, layer.shape[0] // group, -1)
    if layer.op == "ConvTranspose":
        return weight.reshape(group, layer.shape[0] // group, -1).transpose(0, 2, 1)
    return np.moveaxis(weight, layer.axis, 0)[None]


def from_rows(rows: Stack, layer: Layer) -> Codes:
    """The inverse of `to_rows`, as codes."""
    if layer.op == "ConvTranspose":
        rows = rows.transpose(0, 2, 1)
    elif layer.op != "Conv":
        rows = np.moveaxis(rows[0], 0, layer.axis)
    return np.ascontiguousarray(rows.reshape(layer.shape)).astype(np.int8)


def _row_scales(scale: Floats, layer: Layer, rows: int) -> Stack:
    """[group, rows] of scales; a ConvTranspose's groups share their channels' scales."""
    if layer.op == "ConvTranspose":
        return np.broadcast_to(scale.repeat(rows // len(scale)), (layer.group, rows))
    return scale.reshape(layer.group, rows) if layer.op == "Conv" else scale[None]


def _walk(stack: Stack, steps: Stack, low: Stack, high: Stack, gram: Doubles) -> Stack:
    """Codes [group, rows, D] as float32, by the recursion above."""
    diagonal = np.einsum("gii->gi", gram)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    factor = _factor(ordered)
    left = np.take_along_axis(stack, order[:, None, :], 2).astype(np.float32)
    codes = np.empty_like(left)
    size = left.shape[2]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((*left.shape[:2], stop - start), np.float32)
        for j in range(start, stop):
            column = left[:, :, j]
            codes[:, :, j] = np.clip(np.rint(column / steps), low, high)
            error = (column - codes[:, :, j] * steps) / factor[:, j, j][:, None]
            left[:, :, j:stop] -= error[:, :, None] * factor[:, None, j, j:stop]
            errors[:, :, j - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return np.take_along_axis(codes, np.argsort(order, axis=1)[:, None, :], 2)


def _factor(gram: Doubles) -> Stack:
    """Upper Cholesky factor of the damped inverse, float32 [group, D, D].

    Fewer windows than columns leave a matrix singular; more damping then brings it closer to nearest rounding.
    """
    scale = np.einsum("gii->gi", gram).mean(axis=1)
    scale = np.where(scale > 0, scale, 1.0)[:, None, None]
    for damping in _DAMPING:
        try:
            inverse = np.linalg.inv(gram / scale + damping * np.eye(gram.shape[1]))
            factor = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
        except np.linalg.LinAlgError:
            continue
        return factor.transpose(0, 2, 1).astype(np.float32)
    return np.broadcast_to(np.eye(gram.shape[1], dtype=np.float32), gram.shape)
