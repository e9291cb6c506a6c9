"""Gather (1, 11, 13): rows of a table along an axis, picked by indices: an embedding."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Operator, Shapes
from onnxmpq.passes.matching import FLOATS, attribute
from onnxmpq.values.layer import Layout

_LEAST_COLUMNS = 32  # of a scale: with 16 bits it then costs half a bit a weight at most
_LEAST_VALUES = 1024  # a smaller table takes less than the nodes that unpack it


def gathered_axis(node: gs.Node) -> int:
    """The axis of the table that the indices pick along, counted from the first."""
    return int(attribute(node, "axis", 0)) % len(node.inputs[0].shape)


def _takes(tensor: gs.Tensor) -> bool:
    """True for a table of floats; what is computed may be one."""
    if tensor.dtype is not None and tensor.dtype not in FLOATS:
        return False
    sizes = tensor.shape if isinstance(tensor, gs.Constant) else None
    return sizes is None or (len(sizes) > 1 and math.prod(sizes) >= _LEAST_VALUES)


def _layout(node: gs.Node, _place: int) -> Layout:
    """A scale for each row that is picked; for each place in a row where rows are so short that a scale costs much."""
    shape, axis = node.inputs[0].shape, gathered_axis(node)
    others = [i for i in range(len(shape)) if i != axis]
    if math.prod(shape) < _LEAST_COLUMNS * shape[axis]:
        axis = max(others, key=lambda i: int(shape[i]))
    rows = (axis, *(i for i in range(len(shape)) if i != axis))
    return Layout(axis, rows, (), blind="tables that are looked up")


def _macs(node: gs.Node, _place: int, shapes: Shapes) -> int:
    """One for each value that is read."""
    shape = shapes.get(node.outputs[0].name)
    return 0 if shape is None else math.prod(shape)


GATHER = Operator(name="Gather", weights=(0,), use="lookup", takes=_takes, layout=_layout, macs=_macs)
