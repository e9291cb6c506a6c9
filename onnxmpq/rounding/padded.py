"""Layers whose windows are the positions of samples, of which padding tells nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxmpq.onnx_io.traced import Traced
from onnxmpq.values.layer import Layer
from onnxmpq.values.padding import Padding

_PRODUCTS = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Padded:
    """The `weights` whose windows `padding` tells of."""

    padding: Padding | None = None
    weights: frozenset[str] = frozenset()


NO_PADDED = Padded()


def padded_weights(
    padding: Padding | None, layers: Sequence[Layer], model: onnx.ModelProto, traced: Mapping[str, Traced]
) -> Padded:
    """Matrices that multiply [N, positions, features], or the same as [N * positions, features], and nothing else."""
    if padding is None or padding.mask not in traced:
        return NO_PADDED
    weights = {layer.weight for layer in layers}
    mask = traced[padding.mask].shape
    read: dict[str, list[bool]] = {}
    for node in model.graph.node:
        for name in weights.intersection(node.input[1:2]):
            data = traced.get(node.input[0])
            holds = node.op_type in _PRODUCTS and data is not None and has_positions(data.shape, mask)
            read.setdefault(name, []).append(holds)
    return Padded(padding, frozenset(name for name, holds in read.items() if all(holds)))


def has_positions(shape: tuple[int, ...], mask: tuple[int, ...]) -> bool:
    """True for the shape of a tensor whose rows are the positions of the mask [N, positions], in its order."""
    if mask[-1] < 2 or math.prod(shape[:-1]) != math.prod(mask):
        return False
    return len(shape) == 2 or shape[:2] == mask
