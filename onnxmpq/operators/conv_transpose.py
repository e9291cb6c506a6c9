"""ConvTranspose (1, 11, 22): x [N, C, *positions], weight [C, M / group, *kernel], bias [M].

An output value is a sum over the input channels at some of the taps; a row is one channel at one tap, and all rows of a
channel, of every group, share its scale.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import BiasSlot, Operator
from onnxmpq.operators.windows import as_float, channels_first, every, map_macs
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import attribute
from onnxmpq.values.layer import Layout


def _layout(node: gs.Node, place: int) -> Layout:
    rank = len(node.inputs[place].shape)
    return Layout(1, tuple(range(1, rank)), (0,), int(attribute(node, "group", 1)))


def _result(node: gs.Node) -> tuple[int, int, int]:
    weight = node.inputs[1]
    return len(weight.shape), 1, weight.shape[1] * attribute(node, "group", 1)


def _windows(e: Emitter, node: gs.Node, _place: int, step: int) -> list[gs.Tensor]:
    """The input's channels; each tap sees the same."""
    rank = len(node.inputs[1].shape) - 2
    return [every(e, channels_first(e, as_float(e, node.inputs[0]), rank), step, rank)]


CONV_TRANSPOSE = Operator(
    name="ConvTranspose",
    weights=(1,),
    layout=_layout,
    macs=lambda node, place, shapes: map_macs(node.inputs[0], node.inputs[place], shapes),
    positions=lambda node, shapes: tuple(shapes.get(node.inputs[0].name, ()))[2:],
    result=_result,
    bias=BiasSlot(2, moves=False),  # an output value takes in some of a channel's rows only
    windows=_windows,
    profiled=frozenset({"ConvTranspose"}),
)
