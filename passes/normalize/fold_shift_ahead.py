"""A scalar that is added goes into the biases of the layers behind it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators.response import response_to_ones
from onnxmpq.passes.matching import (
    attribute,
    holds,
    is_captured,
    is_float_constant,
    is_private,
    optional_input,
    own_name,
    redirect,
    remove,
    require,
    rewrites,
    scalar_operand,
    set_input,
    unique_name,
)
from onnxmpq.passes.normalize.channel_affine import channel_bias
from onnxmpq.values.arrays import Doubles


@rewrites({"Add"})
def fold_shift_ahead(graph: gs.Graph, node: gs.Node) -> None:
    """Drop the Add of a scalar where only Conv and Gemm read it, whose biases take what the weight makes of it.

    A Conv that pads does not: it pads with zeros behind the Add. Each weight is a constant. Computed in float64, stored
    in the weight's dtype. Preserving: equal but for rounding.
    """
    place, shift = scalar_operand(node)
    source, result = node.inputs[1 - place], node.outputs[0]
    require(all(result is not output for output in graph.outputs), f"{result.name} is a graph output")
    require(
        bool(result.outputs) and not is_captured(graph, result),
        f"{result.name} is not read, or by a subgraph",
    )
    layers = list(result.outputs)
    biases = [_shifted_bias(graph, layer, result, shift) for layer in layers]
    for layer, values in zip(layers, biases, strict=True):
        old = optional_input(layer, 2)
        name = unique_name(graph, f"{layer.inputs[1].name}_bias") if old is None else own_name(graph, old)
        set_input(layer, 2, gs.Constant(name, values.astype(layer.inputs[1].dtype)))
    redirect(layers, result, source)
    remove(graph, [node])


def _shifted_bias(graph: gs.Graph, layer: gs.Node, data: gs.Tensor, shift: float) -> Doubles:
    """The bias, float64 [channels], that a layer has once its data are less by `shift`."""
    shifts = response_to_ones(layer) * shift
    require(layer.inputs[0] is data and all(t is not data for t in layer.inputs[1:]), "it is no layer's data")
    require(holds(graph, layer), f"{layer.outputs[0].name} is made by a subgraph")
    require(not _pads(layer), f"{layer.outputs[0].name} pads with zeros")
    bias = optional_input(layer, 2)
    if bias is None:
        return shifts
    require(is_float_constant(bias) and is_private(graph, bias), "its bias is no constant of its own")
    return shifts + channel_bias(bias, layer.op, 2, 1, len(shifts))


def _pads(layer: gs.Node) -> bool:
    auto_pad = attribute(layer, "auto_pad", "NOTSET")
    return any(attribute(layer, "pads", [])) or auto_pad not in {"NOTSET", "VALID"}
