"""Add (7, 13, 14) of a large constant that varies along several axes: the embeddings of positions."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Operator, Shapes
from onnxmpq.passes.matching import is_float_constant, read
from onnxmpq.values.layer import Layout

_LEAST_VALUES = 1 << 14  # 64 KB in float: of less there is little to gain, and a layer takes time to measure


def _takes(tensor: gs.Tensor) -> bool:
    """True for a large constant of floats with two axes or more; others are biases."""
    if not is_float_constant(tensor):
        return False
    sizes = [int(size) for size in tensor.shape]
    return math.prod(sizes) >= _LEAST_VALUES and sum(size > 1 for size in sizes) > 1


def _layout(node: gs.Node, place: int) -> Layout:
    """A scale for each place along the axis that leaves the least error, by the largest magnitude at each."""
    values = np.abs(read(node.inputs[place])).astype(np.float64)
    axes = range(values.ndim)
    largest = {i: values.max(axis=tuple(j for j in axes if j != i), initial=0) for i in axes}
    axis = min((i for i in axes if values.shape[i] > 1), key=lambda i: np.square(largest[i]).mean())
    return Layout(axis, (axis, *(i for i in axes if i != axis)), (), blind="constants that are added")


def _macs(node: gs.Node, _place: int, shapes: Shapes) -> int:
    """One for each sum."""
    shape = shapes.get(node.outputs[0].name)
    return 0 if shape is None else math.prod(shape)


ADD = Operator(name="Add", weights=(1, 0), use="sum", takes=_takes, layout=_layout, macs=_macs)
