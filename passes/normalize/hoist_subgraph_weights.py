"""Weights inside control-flow subgraphs become constants of the main graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxmpq.operators import weight_places
from onnxmpq.passes.matching import graphs, is_float_constant, unique_name


def hoist_subgraph_weights(graph: gs.Graph) -> bool:
    """Give every weight that a subgraph's layer reads a name that no other tensor of the model has.

    In onnx-graphsurgeon a constant belongs to no graph: it is one object that nodes of any graph read, and
    it is written into every graph that does. A name of its own is all it lacks to be computed by the main
    graph instead, and captured by name (ONNX IR, outer-scope rule); `onnx_io.graph.export_model` does so to the
    written model. Takes the float constants at the weight inputs of layers (`onnxmpq.operators`) in
    the bodies of If, Loop and Scan, nested ones too. Preserving: the outputs are bit-equal.
    """
    changed = False
    for weight in list(_subgraph_weights(graph)):
        if _shares_its_name(graph, weight):
            weight.name = unique_name(graph, weight.name)
            changed = True
    return changed


def _subgraph_weights(graph: gs.Graph) -> Iterator[gs.Constant]:
    for subgraph in graph.subgraphs(recursive=True):
        for node in subgraph.nodes:
            yield from (node.inputs[i] for i in weight_places(node) if is_float_constant(node.inputs[i]))


def _shares_its_name(graph: gs.Graph, weight: gs.Constant) -> bool:
    """True where another tensor of the model has the weight's name (siblings may use equal names)."""
    return any(
        tensor.name == weight.name and tensor is not weight
        for part in graphs(graph)
        for tensors in (part.inputs, part.outputs, *((*node.inputs, *node.outputs) for node in part.nodes))
        for tensor in tensors
    )
