"""A weight as rows, one for each sum of products it takes part in, and back.

A row of a Conv, Gemm or MatMul is an output channel and has a scale of its own. A ConvTranspose has a row for
each output channel, tap and group; the rows of one channel share a scale. Where the input channels are in blocks
(`onnxmpq.rounding.blocks`), a row is cut at them and each block stands as a group of its own; the parts of a row share
its scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.blocks import block_columns, block_count, columns
from onnxmpq.values.arrays import Floats
from onnxmpq.values.layer import Layer

Stack = NDArray[np.float32]  # [group * blocks, rows, D_b]
# What is done column by column runs along the rows.
Columns = NDArray[np.float32]  # [group * blocks, D_b, rows]


def to_rows(weight: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The weight as [group * blocks, rows, D_b]: a row for every output channel of a group (ConvTranspose: and tap).

    A last block that is not full ends in zeros.
    """
    rows = _whole_rows(weight, layer)
    blocks, size = block_count(layer), block_columns(layer)
    if blocks == 1:
        return rows
    filled = np.pad(rows, [(0, 0), (0, 0), (0, blocks * size - rows.shape[2])])
    return (
        filled.reshape(*rows.shape[:2], blocks, size).transpose(0, 2, 1, 3).reshape(-1, rows.shape[1], size)
    )


def from_rows(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The inverse of `to_rows`."""
    split = rows.reshape(layer.group, -1, *rows.shape[1:]).transpose(0, 2, 1, 3)
    rows = split.reshape(layer.group, rows.shape[1], -1)[:, :, : columns(layer)]
    if layer.op == "ConvTranspose":
        rows = rows.transpose(0, 2, 1)
    elif layer.op != "Conv":
        rows = np.moveaxis(rows[0], 0, layer.axis)
    return np.ascontiguousarray(rows.reshape(layer.shape))


def _whole_rows(weight: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """[group, rows, D]."""
    group = layer.group
    if layer.op == "Conv":
        return weight.reshape(group, layer.shape[0] // group, -1)
    if layer.op == "ConvTranspose":
        return weight.reshape(group, layer.shape[0] // group, -1).transpose(0, 2, 1)
    return np.moveaxis(weight, layer.axis, 0)[None]


def taps(layer: Layer) -> int:
    """How many rows in a group share a scale."""
    return layer.params // (layer.shape[0] * layer.shape[1]) if layer.op == "ConvTranspose" else 1


def row_scales(scale: Floats, layer: Layer) -> Stack:
    """[group * blocks, rows] of a layer's scales [channels]."""
    if layer.op == "ConvTranspose":
        rows = scale.repeat(taps(layer))
        return np.broadcast_to(rows, (layer.group * block_count(layer), len(rows)))
    return scale.reshape(layer.group, -1).repeat(block_count(layer), axis=0)


def channel_scales(rows: Stack, layer: Layer) -> Floats:
    """The inverse of `row_scales`, float32 [channels]."""
    rows = rows[:1, :: taps(layer)] if layer.op == "ConvTranspose" else rows[:: block_count(layer)]
    return np.ascontiguousarray(rows.reshape(-1), np.float32)


def pooled(values: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Sums over the rows that share a scale, each in the place of all; `values` is [group * blocks, n, rows]."""
    if layer.op != "ConvTranspose" and block_count(layer) == 1:
        return values
    split = values.reshape(layer.group, -1, values.shape[1], values.shape[2] // taps(layer), taps(layer))
    groups = (0,) if layer.op == "ConvTranspose" else ()
    total = split.sum(axis=(*groups, 1, 4), keepdims=True)
    return np.broadcast_to(total, split.shape).reshape(values.shape)
