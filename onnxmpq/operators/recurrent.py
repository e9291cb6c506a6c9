"""LSTM, GRU and RNN (1, 7, 14, 22): x [steps, batch, inputs], W [directions, rows, inputs], R [directions, rows, hidden].

`rows` are those of all gates, 4, 3 or 1 for each hidden unit. What W is multiplied with are the steps of x; what R is
multiplied with are states that the node computes itself.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Operator, Shapes
from onnxmpq.operators.windows import rows_of
from onnxmpq.passes.emitter import Emitter
from onnxmpq.values.layer import Layout

_W, _R = 1, 2


def _layout(node: gs.Node, place: int) -> Layout:
    """A scale for each row of each direction."""
    directions, rows, _ = node.inputs[place].shape
    blind = "states of a recurrence" if place == _R else None
    if directions == 1 or rows == 1:
        axis = int(directions == 1)
        return Layout(axis, (axis, 1 - axis), (2,), blind=blind)
    return Layout(1, (0, 1), (2,), blind=blind, stacked=1)


def _macs(node: gs.Node, place: int, shapes: Shapes) -> int:
    """Those of every step of every sequence; padded ones (`sequence_lens`) count."""
    shape = shapes.get(node.inputs[0].name)
    return 0 if shape is None else math.prod(shape[:2]) * math.prod(node.inputs[place].shape)


def _windows(e: Emitter, node: gs.Node, place: int, _step: int) -> list[gs.Tensor]:
    return [rows_of(e, node.inputs[0], int(node.inputs[place].shape[2]))]


def _recurrent(name: str) -> Operator:
    return Operator(
        name=name,
        weights=(_W, _R),
        parts=("W", "R"),
        use="recurrence",
        layout=_layout,
        macs=_macs,
        windows=_windows,
        profiled=frozenset({name}),
    )


LSTM, GRU, RNN = map(_recurrent, ("LSTM", "GRU", "RNN"))
