"""Weights inside control-flow subgraphs become constants of the main graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import graphs, is_float_constant, is_standard, unique_name


def hoist_subgraph_weights(graph: gs.Graph) -> bool:
    """Give every weight that a subgraph's layer reads a name that no other tensor of the model has.

    In onnx-graphsurgeon a constant belongs to no graph: it is one object that nodes of any graph read, and
    it is written into every graph that does. A name of its own is all it lacks to be computed by the main
    graph instead, and captured by name (ONNX IR, outer-scope rule); `hoist_initializers` does so to the
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
            if is_standard(node):
                yield from (node.inputs[i] for i in _places(node.op) if _is_weight(node, i))


def _places(op: str) -> tuple[int, ...]:
    """The inputs that may be a layer's weight."""
    return OPERATORS[op].weights if op in OPERATORS else ()


def _is_weight(node: gs.Node, index: int) -> bool:
    return index < len(node.inputs) and is_float_constant(node.inputs[index])


def _shares_its_name(graph: gs.Graph, weight: gs.Constant) -> bool:
    """True where another tensor of the model has the weight's name (siblings may use equal names)."""
    return any(
        tensor.name == weight.name and tensor is not weight
        for part in graphs(graph)
        for tensor in [*part.inputs, *part.outputs, *_node_tensors(part)]
    )


def _node_tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs


def hoist_initializers(model: onnx.ModelProto) -> None:
    """Move initializers of subgraphs that are layer weights, or that several graphs hold, to the main graph.

    Edits `model` in place; it computes the same and holds each such tensor once. An initializer stays where
    it is when its name stands for something else in another graph, or is its subgraph's output (which may
    not come from outside).
    """
    main, bodies = model.graph, list(_bodies(model.graph))
    held = {tensor.name: [tensor] for tensor in main.initializer}
    own = frozenset(held)
    for tensor in (tensor for body in bodies for tensor in body.initializer):
        held.setdefault(tensor.name, []).append(tensor)
    wanted = {name for body in bodies for name in _weight_names(body)}
    wanted |= {name for name, tensors in held.items() if len(tensors) > 1}
    moved = {name for name in wanted & held.keys() - _other_names(main, bodies) if _are_equal(held[name])}
    main.initializer.extend(tensors[0] for name, tensors in held.items() if name in moved - own)
    for body in bodies:
        kept = [tensor for tensor in body.initializer if tensor.name not in moved]
        del body.initializer[:]
        body.initializer.extend(kept)


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from _bodies(attribute.g)


def _weight_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (node.input[i] for i in _places(node.op_type) if i < len(node.input))


def _other_names(main: onnx.GraphProto, bodies: Sequence[onnx.GraphProto]) -> set[str]:
    """Names that nodes, inputs or the outputs of a body define: no initializer may be moved onto them."""
    values = [value for graph in (main, *bodies) for value in graph.input]
    values += [value for body in bodies for value in body.output]
    computed = {name for graph in (main, *bodies) for node in graph.node for name in node.output}
    return computed | {value.name for value in values}


def _are_equal(tensors: Sequence[onnx.TensorProto]) -> bool:
    return all(tensor == tensors[0] for tensor in tensors[1:])
