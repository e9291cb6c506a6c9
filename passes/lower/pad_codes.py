"""Pad codes instead of the values they stand for, between two equal quantizers.

ONNX Runtime's CPU provider has no integer kernel for DequantizeLinear -> Pad -> QuantizeLinear (1.31), but its Pad
takes uint8: in a ResNet whose shortcuts pad channels that saves a float round trip of the tensor.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    attribute,
    is_constant,
    is_used,
    maker,
    optional_input,
    position,
    read,
    remove,
    require,
    rewrites,
)


@rewrites(("QuantizeLinear",))
def pad_codes(graph: gs.Graph, quantize: gs.Node) -> None:
    """DequantizeLinear -> Pad with zeros -> QuantizeLinear becomes Pad with the zero point (Pad-13 and later).

    Where both quantizers have the same scale and zero point, one a tensor. Of the values that the Pad made, other
    readers keep theirs. Preserving: the codes are the same bit for bit.
    """
    pad = maker(quantize.inputs[0], "Pad")
    dequantize = maker(pad.inputs[0], "DequantizeLinear")
    require(graph.opset >= 13, "Pad takes codes from opset 13 on")
    require(attribute(pad, "mode", "constant") == "constant", "it does not pad with a constant")
    value = optional_input(pad, 2)
    require(value is None or (is_constant(value) and not read(value).any()), "it does not pad with zeros")
    require(_same_parameters(dequantize, quantize), "the values behind it have another scale")
    inputs = [dequantize.inputs[0], pad.inputs[1], quantize.inputs[2], *pad.inputs[3:]]
    place = position(graph.nodes, quantize)
    codes = quantize.outputs[0]
    quantize.outputs.clear()
    graph.nodes.insert(place, gs.Node("Pad", inputs=inputs, outputs=[codes]))
    remove(graph, [quantize])
    for node in (pad, dequantize):
        if not is_used(graph, node.outputs[0]):
            remove(graph, [node])


def _same_parameters(one: gs.Node, other: gs.Node) -> bool:
    """True where both have a constant scale and zero point for the whole tensor, and the same ones."""
    if len(one.inputs) != 3 or len(other.inputs) != 3:
        return False
    pairs = [*zip(one.inputs[1:], other.inputs[1:], strict=True)]
    if not all(is_constant(tensor) and not tensor.shape for pair in pairs for tensor in pair):
        return False
    return all(read(a).dtype == read(b).dtype and read(a) == read(b) for a, b in pairs)
