"""What was chosen: the option of each layer, and what codes and scales take in a file with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.values.group import Group, Unit
from onnxmpq.values.option import Option


@dataclass(frozen=True, slots=True)
class Plan:
    """The option each layer is compiled with, keyed by layer name."""

    options: Mapping[str, Option]

    def __getitem__(self, layer: str) -> Option:
        return self.options[layer]


def stored_bytes(unit: Unit, option: Option) -> int:
    """Bytes of a unit's codes and scales, or of its weight where it stays in float, and of a group's places."""
    channels = len(unit.channels) if isinstance(unit, Group) else unit.channels
    places = unit.place_bytes if isinstance(unit, Group) else 0
    scales = unit.scale_bytes * channels if option.is_quantized else 0
    return math.ceil(unit.params * option.stored_bits / 8) + scales + places


def average_bits(units: Sequence[Unit], plan: Plan) -> float:
    """Mean stored bits a weight over all units."""
    params = sum(unit.params for unit in units)
    return sum(unit.params * plan[unit.name].stored_bits for unit in units) / params


def weight_bytes(units: Sequence[Unit], plan: Plan) -> int:
    """Bytes of all codes and scales."""
    return sum(stored_bytes(unit, plan[unit.name]) for unit in units)
