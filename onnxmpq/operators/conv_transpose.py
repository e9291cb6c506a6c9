"""ConvTranspose (1, 11, 22): x [N, C, *positions], weight [C, M / group, *kernel], bias [M].

An output value is a sum over the input channels at some of the taps; a row is one channel at one tap, and all rows of a
channel, of every group, share its scale.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import BiasSlot, Operator, Shapes
from onnxmpq.operators.windows import as_float, channels_first, map_macs, strided
from onnxmpq.passes.matching import attribute
from onnxmpq.passes.node_builder import NodeBuilder
from onnxmpq.values.layer import Layout


def _layout(node: gs.Node, place: int) -> Layout:
    rank = len(node.inputs[place].shape)
    return Layout(1, tuple(range(1, rank)), (0,), int(attribute(node, "group", 1)))


def _macs(node: gs.Node, place: int, shapes: Shapes) -> int:
    return map_macs(node.inputs[0], node.inputs[place], shapes)


def _positions(node: gs.Node, shapes: Shapes) -> tuple[int, ...]:
    return tuple(shapes.get(node.inputs[0].name, ()))[2:]


def _result(node: gs.Node) -> tuple[int, int, int]:
    weight = node.inputs[1]
    return len(weight.shape), 1, weight.shape[1] * attribute(node, "group", 1)


def _windows(builder: NodeBuilder, node: gs.Node, _place: int, step: int) -> list[gs.Tensor]:
    """The input's channels; each tap sees the same."""
    rank = len(node.inputs[1].shape) - 2
    turned = channels_first(builder, as_float(builder, node.inputs[0]), rank)
    return [strided(builder, turned, [0] * rank, [1] * rank, [step] * rank, [1] * rank)]


CONV_TRANSPOSE = Operator(
    name="ConvTranspose",
    weights=(1,),
    layout=_layout,
    macs=_macs,
    positions=_positions,
    result=_result,
    bias=BiasSlot(2, moves=False),  # an output value takes in some of a channel's rows only
    windows=_windows,
    profiled=frozenset({"ConvTranspose"}),
)
