"""Layers too wide for one matrix of second moments: their input channels in blocks, a matrix for each.

Errors of one block are then made up for within the block only. What a layer's matrices hold together stays within
what one of 4,096 columns holds.
"""

from __future__ import annotations

import math

from onnxmpq.values.layer import Layer

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
