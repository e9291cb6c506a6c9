"""What a layer's codes and scales take in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan


def stored_bytes(layer: Layer, option: Option) -> int:
    """Bytes of a layer's codes and scales, or of its weight where it stays in float, and of its place in another."""
    scales = layer.scale_bytes * layer.channels if option.is_quantized else 0
    return math.ceil(layer.params * option.stored_bits / 8) + scales + layer.place_bytes * layer.channels


def average_bits(layers: Sequence[Layer], plan: Plan) -> float:
    """Mean stored bits a weight over all layers."""
    params = sum(layer.params for layer in layers)
    return sum(layer.params * plan[layer.name].stored_bits for layer in layers) / params


def weight_bytes(layers: Sequence[Layer], plan: Plan) -> int:
    """Bytes of all codes and scales."""
    return sum(stored_bytes(layer, plan[layer.name]) for layer in layers)
