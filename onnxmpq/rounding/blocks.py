"""Layers too wide for one matrix of second moments: their input channels in blocks, a matrix for each.

Errors of one block are then made up for within the block only. What a layer's matrices hold together stays within
what one of 4,096 columns holds.
"""

from __future__ import annotations

import math

from onnxmpq.values.layer import Layer

MOST_COLUMNS = 4096  # columns; a larger matrix takes longer to factor than it can repay


def columns(layer: Layer) -> int:
    """D: how many weights one output value of the layer is a sum over (ConvTranspose: at one tap)."""
    if layer.op == "ConvTranspose":
        return layer.shape[0] // layer.group
    return layer.params // layer.channels


def block_channels(layer: Layer) -> int:
    """How many input channels of a group a block holds at most, at least one: all of them up to 4,096 columns."""
    size, taps = columns(layer), _taps(layer)
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
    return block_channels(layer) * _taps(layer)


def _taps(layer: Layer) -> int:
    """Columns of an input channel."""
    return math.prod(layer.shape[2:]) if layer.op == "Conv" else 1
