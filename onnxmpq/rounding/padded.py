"""Layers whose windows are the positions of samples, of which padding tells nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxmpq.data import Dataset
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.values.arrays import Shape
from onnxmpq.values.layer import Layer
from onnxmpq.values.padding import Padding

_PRODUCTS = frozenset({"Gemm", "MatMul"})
_ROWS = 2  # axes of a matrix
# What gives row i of its output from row i of its first input, and constants or another tensor of its rows.
_BY_ROW = frozenset(
    {"Add", "Clip", "Dropout", "Elu", "Erf", "Gelu", "Gemm", "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "MatMul",
     "Mul", "Relu", "Sigmoid", "Tanh"}
)  # fmt: skip
_SAMPLES = 2  # tell the samples' axis from the positions' and from one of size 1


@dataclass(frozen=True, slots=True)
class Padded:
    """The `weights` whose windows `padding` tells of."""

    padding: Padding | None = None
    weights: frozenset[str] = frozenset()


NO_PADDED = Padded()


def find_padded(
    runtime: Runtime,
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    padding: Padding | None,
    data: Dataset,
    batch_size: int,
) -> Padded:
    """The matrices whose rows are positions of samples, in a run on two samples where the graph takes several."""
    if padding is None:
        return NO_PADDED
    feeds = next(iter(data.batches(min(batch_size, _SAMPLES)))).feeds
    traced = trace(runtime, model, feeds)
    shapes = {name: value.shape for name, value in traced.items()}
    return padded_weights(padding, layers, model, shapes | {padding.mask: feeds[padding.mask].shape})


def padded_weights(
    padding: Padding, layers: Sequence[Layer], model: onnx.ModelProto, shapes: Mapping[str, Shape]
) -> Padded:
    """Matrices that multiply [N, positions, features], or that reshaped to rows, and nothing else."""
    weights, mask = {layer.weight for layer in layers}, shapes[padding.mask]
    makers = {name: node for node in model.graph.node for name in node.output}
    read: dict[str, list[bool]] = {}
    for node in model.graph.node:
        for name in weights.intersection(node.input[1:2]):
            source = _source(node.input[0], makers, shapes)
            holds = node.op_type in _PRODUCTS and has_positions(shapes.get(source, ()), mask)
            read.setdefault(name, []).append(holds)
    return Padded(padding, frozenset(name for name, holds in read.items() if all(holds)))


def _source(tensor: str, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, Shape]) -> str:
    """What a Reshape to rows [N * positions, features] is made of, behind operators that keep rows apart and in order."""
    while len(shapes.get(tensor, ())) == _ROWS and (maker := makers.get(tensor)) is not None:
        before = shapes.get(maker.input[0], ())
        if maker.op_type in ("Reshape", "Flatten"):
            return maker.input[0] if before[-1:] == shapes[tensor][-1:] else tensor
        if maker.op_type not in _BY_ROW or len(before) != _ROWS or before[0] != shapes[tensor][0]:
            break
        tensor = maker.input[0]
    return tensor


def has_positions(shape: Shape, mask: Shape) -> bool:
    """True for the shape of a tensor whose rows are the positions of the mask [N, positions], in its order."""
    several = mask[-1] > _SAMPLES and shape[:2] == tuple(mask)
    return several and len(shape) > 2 and math.prod(shape[2:-1]) == 1
