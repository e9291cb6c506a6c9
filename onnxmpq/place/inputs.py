"""Q/DQ pairs before layers and on residual sums only, for compilers that carry them through a graph themselves.

TensorRT moves Q and DQ across the operators that commute with them, and fuses what it finds between; it asks for
quantized inputs of weighted operators, outputs left alone, and a quantized residual input of a sum so that the
convolution before the sum takes the sum in ("Q/DQ layer-placement recommendations"). Pure analysis.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, is_standard
from onnxmpq.place.refusals import float_layers, integer_kernel
from onnxmpq.values.layer import Layer
from onnxmpq.values.placement import Placement


def place_inputs(graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str]) -> Placement:
    """Quantize what the layers named in `integer` read, and the other operand of every sum that they alone end in.

    Each pair serves those readers; all others go on in float. Of two layers that end in one sum the first is taken in;
    were it in float, the second would be, and so the first's result is a spare. `graph` is normalised and topologically
    sorted.
    """
    left = float_layers(graph, layers, integer)
    weights = {layer.weight for layer in layers if layer.name not in left}
    quantized: dict[str, set[str]] = {}
    for node in graph.nodes:
        for source in _quantized_inputs(graph, node, weights):
            quantized.setdefault(source, set()).add(node.outputs[0].name)
    fused = (ends[0] for node in graph.nodes if len(ends := _fusible(graph, node, weights)) == 2)
    return Placement(
        tensors=tuple(quantized),
        same_scale=(),
        float_sources={name: frozenset(readers) for name, readers in quantized.items()},
        split_biases=frozenset(),
        float_ops={},
        integer_layers=tuple(layer.name for layer in layers if layer.name not in left),
        float_layers=left,
        spare=tuple(name for name in fused if name not in quantized),
    )


def _quantized_inputs(graph: gs.Graph, node: gs.Node, weights: Collection[str]) -> Iterator[str]:
    if integer_kernel(node, weights) is not None:
        yield node.inputs[0].name
    elif fused := _fusible(graph, node, weights):
        yield next(tensor.name for tensor in node.inputs if tensor.name != fused[0])


def _fusible(graph: gs.Graph, node: gs.Node, weights: Collection[str]) -> list[str]:
    """The operands of a sum of two results that integer layers end in; none for other nodes."""
    if node.op != "Add" or not is_standard(node) or any(map(is_constant, node.inputs)):
        return []
    return [tensor.name for tensor in node.inputs if _ends_layer(graph, tensor, weights)]


def _ends_layer(graph: gs.Graph, tensor: gs.Tensor, weights: Collection[str]) -> bool:
    """True for the result of an integer layer that nobody but one node reads."""
    made = len(tensor.inputs) == 1 and integer_kernel(tensor.inputs[0], weights) is not None
    return made and len(tensor.outputs) == 1 and all(tensor is not output for output in graph.outputs)
