"""A weight as rows, one for each sum of products it takes part in, and back.

The layer's layout (`onnxmpq.values.layer`) tells which axes are rows; those of one output channel share its scale.

A layer that is too wide for one matrix of second moments has its input channels in blocks, a matrix for each: a row is cut
at them and each block stands as a group of its own; the parts of a row share its scale. Errors of one block are then
made up for within the block only. What a layer's matrices hold together stays within what one of 4,096 columns holds.
"""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.values.arrays import Array, Floats
from onnxmpq.values.layer import Layer

Stack = Floats  # [group * blocks, rows, D_b]
# What is done column by column runs along the rows.
Columns = Floats  # [group * blocks, D_b, rows]

MOST_COLUMNS = 4096  # columns; a larger matrix takes longer to factor than it can repay


def columns(layer: Layer) -> int:
    """D: how many weights of a group one output value of the layer is a sum over."""
    size = math.prod(layer.shape[axis] for axis in layer.layout.columns)
    return size // layer.group if 0 in layer.layout.columns else size


def block_channels(layer: Layer) -> int:
    """How many input channels of a group a block holds at most, at least one: all of them up to 4,096 columns."""
    size, taps = columns(layer), layer.layout.taps
    if size <= MOST_COLUMNS:
        return size // taps
    channels = size // taps
    blocks = math.ceil(channels / max(MOST_COLUMNS**2 // size // taps, 1))
    return math.ceil(channels / blocks)


def block_count(layer: Layer) -> int:
    """How many blocks the columns of a group are in; the last one may be filled up with channels of zeros."""
    return math.ceil(columns(layer) / block_columns(layer))


def block_columns(layer: Layer) -> int:
    """D_b: how many columns a block has, D where there is one."""
    return block_channels(layer) * layer.layout.taps


def to_rows(weight: Array, layer: Layer) -> Array:
    """The weight as [group * blocks, rows, D_b]: a row for every output value of a group.

    A last block that is not full ends in zeros.
    """
    turned = weight.reshape(_split_shape(layer)).transpose(_order(layer))
    rows = turned.reshape(layer.group, -1, columns(layer))
    blocks, size = block_count(layer), block_columns(layer)
    if blocks == 1:
        return rows
    filled = np.pad(rows, [(0, 0), (0, 0), (0, blocks * size - rows.shape[2])])
    return (
        filled.reshape(*rows.shape[:2], blocks, size).transpose(0, 2, 1, 3).reshape(-1, rows.shape[1], size)
    )


def from_rows(rows: Array, layer: Layer) -> Array:
    """The inverse of `to_rows`."""
    split = rows.reshape(layer.group, -1, *rows.shape[1:]).transpose(0, 2, 1, 3)
    rows = split.reshape(layer.group, rows.shape[1], -1)[:, :, : columns(layer)]
    order = _order(layer)
    sizes = _split_shape(layer)
    turned = rows.reshape([sizes[axis] for axis in order]).transpose(np.argsort(order))
    return np.ascontiguousarray(turned.reshape(layer.shape))


def _split_shape(layer: Layer) -> tuple[int, ...]:
    """The weight's shape with its first axis as groups and what each holds."""
    return layer.group, layer.shape[0] // layer.group, *layer.shape[1:]


def _order(layer: Layer) -> list[int]:
    """The axes of `_split_shape` as groups, rows and columns."""
    return [0, *(1 + axis for axis in (*layer.layout.rows, *layer.layout.columns))]


def taps(layer: Layer) -> int:
    """How many rows in a group share a scale."""
    return math.prod(_split_shape(layer)[1 + axis] for axis in layer.layout.rows[1:])


def row_scales(scale: Floats, layer: Layer) -> Stack:
    """[group * blocks, rows] of a layer's scales [channels]."""
    shared = layer.layout.shares_scales
    groups = np.broadcast_to(scale, (layer.group, len(scale))) if shared else scale.reshape(layer.group, -1)
    return groups.repeat(taps(layer), axis=1).repeat(block_count(layer), axis=0)


def channel_scales(rows: Stack, layer: Layer) -> Floats:
    """The inverse of `row_scales`, float32 [channels]."""
    groups = rows[:: block_count(layer), :: taps(layer)]
    return np.ascontiguousarray(groups[: 1 if layer.layout.shares_scales else None].reshape(-1), np.float32)


def pooled(values: Array, layer: Layer) -> Array:
    """Sums over the rows that share a scale, each in the place of all; `values` is [group * blocks, n, rows]."""
    shared = layer.layout.shares_scales and layer.group > 1
    if block_count(layer) == taps(layer) == 1 and not shared:
        return values
    split = values.reshape(layer.group, -1, values.shape[1], values.shape[2] // taps(layer), taps(layer))
    total = split.sum(axis=(0, 1, 4) if shared else (1, 4), keepdims=True)
    return np.broadcast_to(total, split.shape).reshape(values.shape)
