"""What a model holds: its graphs, nodes and tensors, those inside others too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto, TensorProto

DEFAULT_DOMAIN = ("", "ai.onnx")  # two spellings of one domain


def opset_version(model: onnx.ModelProto) -> int:
    """The opset of the ONNX domain that a model imports."""
    return next(int(o.version) for o in model.opset_import if o.domain in DEFAULT_DOMAIN)


def initializers_listed_as_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the graph inputs that have a default value, in order; in an imported graph they are constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(value.name for value in model.graph.input if value.name in constants)


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The bodies of control flow among the nodes, not those inside them."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every control-flow subgraph inside it."""
    yield graph
    for inner in subgraphs(graph.node):
        yield from graphs(inner)


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model, those of subgraphs and functions too."""
    bodies: list[Sequence[onnx.NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    for body in bodies:
        yield from body
        for inner in subgraphs(body):
            for graph in graphs(inner):
                yield from graph.node


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in a model: initializers and attributes, those of subgraphs and functions too."""
    inner = [g for node in nodes(model) for g in subgraphs([node])]
    for graph in (model.graph, *inner):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """The constants of the main graph and of control-flow bodies by name: initializers, and tensors of Constant nodes."""
    found: dict[str, TensorProto] = {}
    for graph in graphs(model.graph):
        found |= {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
    return found
