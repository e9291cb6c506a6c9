"""Take `scale * y + shift`, one of each per output channel, into the weight and bias of the layer that makes y."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import (
    NoMatch,
    absorb_into,
    attribute,
    is_constant,
    is_float_constant,
    optional_input,
    own_name,
    per_channel,
    producer,
    read,
    require,
    require_private,
    set_input,
    unique_name,
)
from onnxmpq.values.arrays import Array, Doubles
from onnxmpq.values.layer import Layout


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer whose result is read once, and what is needed to change it.

    `tail` makes the result: the layer's own node, or for a MatMul the Add of a constant behind it, if there
    is one. `bias_input` is the input of `tail` that is or would be the bias, None for a MatMul alone. The
    result has `channels` on `axis` of `rank` dimensions; of a MatMul whose rank is not known only the last
    axis counts.
    """

    node: gs.Node
    tail: gs.Node
    weight: gs.Constant
    bias_input: int | None
    rank: int
    axis: int
    channels: int


def layer_before(graph: gs.Graph, tensor: gs.Tensor) -> LinearLayer:
    """The layer that makes `tensor`, which is read once; NoMatch where there is none with a float constant weight."""
    require_private(graph, tensor)
    tail = producer(tensor)
    node, bias_input = (tail, 2) if tail.op != "Add" else _biased_matmul(graph, tail)
    operator = OPERATORS.get(node.op)
    if operator is None or operator.result is None:
        raise NoMatch(f"{tensor.name} is made by {node.op}, which no factor is folded into")
    weight = node.inputs[1]
    require(is_float_constant(weight), f"the weight {weight.name} is not a floating-point constant")
    is_bare = tail is node and operator.bias is None
    return LinearLayer(node, tail, weight, None if is_bare else bias_input, *operator.result(node))


def _biased_matmul(graph: gs.Graph, add: gs.Node) -> tuple[gs.Node, int]:
    """The MatMul before an Add, and which of the Add's inputs is the bias."""
    product, bias_input = split_operands(add)
    require_private(graph, add.inputs[product])
    node = producer(add.inputs[product])
    require(node.op == "MatMul", f"{add.outputs[0].name} is made by an Add that is no MatMul's bias")
    return node, bias_input


def split_operands(node: gs.Node) -> tuple[int, int]:
    """Indices of the computed and of the constant operand of a binary operator; NoMatch where it has none such."""
    constants = [i for i, tensor in enumerate(node.inputs) if is_constant(tensor)]
    require(len(node.inputs) == 2 and len(constants) == 1, "one of two operands should be constant")
    return 1 - constants[0], constants[0]


def absorb(graph: gs.Graph, layer: LinearLayer, scale: Doubles, shift: Doubles) -> None:
    """Change the layer's weight and bias so that it makes `scale * y + shift`, both float64 [channels].

    Computed in float64 and stored in the weight's dtype. NoMatch, before any edit, where the weight is
    shared, the layer has nowhere to put a shift, or a value does not fit the dtype.
    """
    with np.errstate(all="ignore"):  # what does not fit is refused
        weight, bias = _new_weight(graph, layer, scale), _new_bias(layer, scale, shift)
    if weight is not None:
        layer.node.inputs[1] = gs.Constant(layer.weight.name, weight)
    if bias is not None and layer.bias_input is not None:
        old = optional_input(layer.tail, layer.bias_input)
        name = unique_name(graph, f"{layer.weight.name}_bias") if old is None else own_name(graph, old)
        set_input(layer.tail, layer.bias_input, gs.Constant(name, bias))
        layer.tail.attrs.pop("beta", None)  # a Gemm's: the new bias holds it


def absorb_and_drop(
    graph: gs.Graph, layer: LinearLayer, scale: Doubles, shift: Doubles, node: gs.Node
) -> None:
    """Absorb what `node` computes from the layer's result, and drop `node`."""
    absorb(graph, layer, scale, shift)
    absorb_into(graph, layer.tail, node)


def _new_weight(graph: gs.Graph, layer: LinearLayer, scale: Doubles) -> Array | None:
    if (scale == 1).all():
        return None
    name = layer.weight.name
    require(layer.weight not in graph.outputs, f"the weight {name} is a graph output")
    require(len(layer.weight.outputs) == 1, f"the weight {name} is read by other nodes too")
    weight = read(layer.weight).astype(np.float64)
    layout = OPERATORS[layer.node.op].layout(layer.node, 1)
    return _stored(_scale_channels(weight, layout, scale), layer.weight)


def _scale_channels(weight: Doubles, layout: Layout, scale: Doubles) -> Doubles:
    """The weight with its output channels times [channels of all groups]."""
    groups = weight.reshape(layout.group, -1, *weight.shape[1:])
    along = [layout.group, *(1 for _ in weight.shape)]
    along[1 + layout.axis] = len(scale) // layout.group
    return (groups * scale.reshape(along)).reshape(weight.shape)


def _new_bias(layer: LinearLayer, scale: Doubles, shift: Doubles) -> Array | None:
    if layer.bias_input is None:
        require(not shift.any(), "a MatMul has no bias to hold a shift")
        return None
    bias = optional_input(layer.tail, layer.bias_input)
    if bias is None and not shift.any():
        return None
    old = np.zeros(layer.channels)
    if bias is not None:
        old = channel_bias(bias, layer.node.op, layer.rank, layer.axis, layer.channels)
        old = old * attribute(layer.tail, "beta", 1.0)
    return _stored(old * scale + shift, layer.weight)


def channel_bias(bias: gs.Tensor, op: str, rank: int, axis: int, channels: int) -> Doubles:
    """A constant bias of a layer's node, or behind it, as one value a channel."""
    slot = OPERATORS[op].bias
    is_vector = slot is not None and slot.is_vector
    return per_channel(read(bias), *((1, 0) if is_vector else (rank, axis)), channels)


def _stored(values: Doubles, weight: gs.Constant) -> Array:
    """`values` in the weight's dtype; NoMatch where one of them does not fit."""
    stored: Array = values.astype(weight.dtype)
    require(bool(np.isfinite(stored).all()), f"a value of {weight.name} would overflow {weight.dtype}")
    return stored
