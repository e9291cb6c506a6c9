"""Views of constants that are no layer's weight (biases reshaped for broadcasting, say) become constants."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_captured, is_constant, is_private, redirect, remove, require, rewrites
from onnxmpq.passes.normalize.constant_nodes import VIEWS, evaluated, nodes_as_model


@rewrites(VIEWS - {"Cast"})
def fold_constant_views(graph: gs.Graph, node: gs.Node) -> None:
    """Reshape, Squeeze, Unsqueeze, Flatten and Transpose of a constant that nothing else reads become a constant.

    As PaddlePaddle exports the bias of a convolution. What others read as well is held once, and stays. Preserving:
    the outputs are bit-equal.
    """
    source, view = node.inputs[0], node.outputs[0]
    known = [tensor for tensor in node.inputs if not tensor.is_empty()]
    require(all(map(is_constant, known)), "it reads what is no constant")
    require(is_private(graph, source), f"{source.name} is read by others as well")
    require(all(view is not output for output in graph.outputs), f"{view.name} is a graph output")
    require(not is_captured(graph, view), f"{view.name} is read by a subgraph")
    (values,) = evaluated(nodes_as_model([node], [view], graph.opset))
    constant = gs.Constant(view.name, values)
    redirect(view.outputs, view, constant)
    remove(graph, [node])
