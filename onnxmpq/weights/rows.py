"""A weight as rows, one for each sum of products it takes part in, and back.

A row of a Conv, Gemm or MatMul is an output channel and has a scale of its own. A ConvTranspose has a row for
each output channel, tap and group; the rows of one channel share a scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.spec import Layer
from onnxmpq.weights.quantizer import Floats

Stack = NDArray[np.float32]  # [group, rows, D]


def to_rows(weight: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The weight as [group, rows, D]: a row for every output channel of a group (ConvTranspose: and tap)."""
    group = layer.group
    if layer.op == "Conv":
        return weight.reshape(group, layer.shape[0] // group, -1)
    if layer.op == "ConvTranspose":
        return weight.reshape(group, layer.shape[0] // group, -1).transpose(0, 2, 1)
    return np.moveaxis(weight, layer.axis, 0)[None]


def from_rows(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The inverse of `to_rows`."""
    if layer.op == "ConvTranspose":
        rows = rows.transpose(0, 2, 1)
    elif layer.op != "Conv":
        rows = np.moveaxis(rows[0], 0, layer.axis)
    return np.ascontiguousarray(rows.reshape(layer.shape))


def taps(layer: Layer) -> int:
    """How many rows in a group share a scale."""
    return layer.params // (layer.shape[0] * layer.shape[1]) if layer.op == "ConvTranspose" else 1


def row_scales(scale: Floats, layer: Layer) -> Stack:
    """[group, rows] of a layer's scales [channels]."""
    if layer.op == "ConvTranspose":
        rows = scale.repeat(taps(layer))
        return np.broadcast_to(rows, (layer.group, len(rows)))
    return scale.reshape(layer.group, -1)


def channel_scales(rows: Stack, layer: Layer) -> Floats:
    """The inverse of `row_scales`, float32 [channels]."""
    if layer.op == "ConvTranspose":
        rows = rows[:1, :: taps(layer)]
    return np.ascontiguousarray(rows.reshape(-1), np.float32)


def pooled(values: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Sums over the rows that share a scale, each in the place of all of them; `values` is [group, n, rows]."""
    if layer.op != "ConvTranspose":
        return values
    split = values.reshape(*values.shape[:2], -1, taps(layer))
    total = split.sum(axis=(0, 3), keepdims=True)
    return np.broadcast_to(total, split.shape).reshape(values.shape)
