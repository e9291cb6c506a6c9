"""What a width is decided of: a layer, or a group of its output channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmpq.values.layer import Layer

_BYTE_PLACES = 256  # channels whose places fit a byte

Groups = Mapping[str, tuple[tuple[int, ...], ...]]  # channels of each group of a divided layer, by its name


@dataclass(frozen=True, slots=True)
class Group:
    """Some output channels of a layer, which take a width of their own; `index` is its number among the layer's groups."""

    layer: Layer
    channels: tuple[int, ...]
    index: int

    @property
    def name(self) -> str:
        return part_name(self.layer.name, self.index)

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return self.layer.params * len(self.channels) // self.layer.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its channels for one sample, 0 when unknown."""
        return self.layer.macs * len(self.channels) // self.layer.channels

    @property
    def scale_bytes(self) -> int:
        """That the file spends on a channel's scale."""
        return self.layer.scale_bytes

    @property
    def place_bytes(self) -> int:
        """That the file spends on the places of its channels in the layer."""
        return place_type(self.layer.channels).itemsize * len(self.channels)


Unit = Layer | Group


def layer_of(unit: Unit) -> Layer:
    """The model's layer that the unit is, or is a group of channels of."""
    return unit.layer if isinstance(unit, Group) else unit


def channels_of(unit: Unit) -> tuple[int, ...]:
    """The output channels of the layer that the unit holds."""
    return unit.channels if isinstance(unit, Group) else tuple(range(unit.channels))


def divided(layers: Iterable[Layer], groups: Groups) -> Iterator[Unit]:
    """The layers, those with groups replaced by them."""
    for layer in layers:
        if layer.name in groups:
            yield from (Group(layer, channels, i) for i, channels in enumerate(groups[layer.name]))
        else:
            yield layer


def part_name(whole: str, index: int) -> str:
    """The name of a layer's group, and of the group's own constants."""
    return f"{whole}/part{index}"


def place_type(channels: int) -> np.dtype[Any]:
    """What the file holds the places of so many channels in."""
    return np.dtype(np.uint8 if channels <= _BYTE_PLACES else np.uint16)
