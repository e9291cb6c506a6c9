"""Views of constants become the weights of layers; a constant that others read as well is still held once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS, is_computing, weight_places
from onnxmpq.passes.matching import (
    NoMatch,
    attribute,
    graphs,
    holds,
    is_captured,
    is_constant,
    is_float_constant,
    is_output,
    read,
    redirect,
    remove,
    require,
    rewrite_each,
)
from onnxmpq.passes.node_builder import builders
from onnxmpq.passes.normalize.constant_nodes import evaluated, is_view, needless, nodes_as_model
from onnxmpq.values.arrays import Array

_NODES_BYTES = 256  # more than what the nodes take that turn a view back


def fold_weight_views(graph: gs.Graph) -> bool:
    """Make the constant behind a layer's weight (`onnxmpq.operators`) that weight, where only views lie between them.

    Views are Transpose, Reshape, Squeeze, Unsqueeze, Flatten, Identity, and Cast between floats. What else reads the
    constant (an embedding's Gather, of which the output layer has the table transposed) then reads the weight turned
    back: it is held once, and in codes. Where it is another layer's weight as it is, each layer has its own, but for
    lookups, which read the view. Works inside control-flow subgraphs too. Preserving: the outputs are bit-equal.
    """
    folded = [rewrite_each(part, OPERATORS, partial(_fold, graph)) for part in graphs(graph)]
    return any(folded)


def _fold(graph: gs.Graph, part: gs.Graph, layer: gs.Node) -> None:
    weight, views = _viewed(layer)
    source = views[0].inputs[0]
    require(is_computing(layer.op) or not _is_weight(source), f"{source.name} is the weight of a layer")
    require(
        not any(weight is output for output in part.outputs), f"the weight {weight.name} is a graph output"
    )
    require(not is_captured(part, weight), f"the weight {weight.name} is read by a subgraph")
    require(all(holds(part, view) for view in views), f"{weight.name} is made outside of the subgraph")
    values = evaluated(nodes_as_model(views, [view.outputs[0] for view in views], graph.opset))
    gone = needless(views, {id(weight)}, part)
    views[-1].outputs.clear()
    if _is_weight(source) and _are_same(values[-1], source):
        redirect(weight.outputs, weight, source)
        remove(part, gone)
        return
    turned_back = [] if any(view.op == "Cast" for view in views) else _turned_back(views, source, values)
    remove(part, gone)
    weight.to_constant(values[-1])
    if turned_back and _is_held_twice(graph, part, source):
        _read_turned_back(graph, part, source, weight, turned_back)


def _viewed(layer: gs.Node) -> tuple[gs.Tensor, list[gs.Node]]:
    """The layer's weight, and the views that lie between a constant and it, in order."""
    for weight in (layer.inputs[place] for place in weight_places(layer)):
        views: list[gs.Node] = []
        tensor = weight
        while len(tensor.inputs) == 1 and is_view(tensor.inputs[0]):
            views.insert(0, tensor.inputs[0])
            tensor = views[0].inputs[0]
        parameters = [parameter for view in views for parameter in view.inputs[1:]]
        if views and is_float_constant(tensor) and all(is_constant(p) or p.is_empty() for p in parameters):
            return weight, views
    raise NoMatch("its weight is no view of a constant")


def _is_weight(tensor: gs.Tensor) -> bool:
    """True where a layer computes with it as its weight."""
    computing = [node for node in tensor.outputs if is_computing(node.op)]
    return any(node.inputs[place] is tensor for node in computing for place in weight_places(node))


def _are_same(values: Array, constant: gs.Constant) -> bool:
    """True where an array is what the constant holds, in its shape and type."""
    own = read(constant)
    same = (values.shape, values.dtype) == (own.shape, own.dtype)
    return same and values.tobytes() == np.ascontiguousarray(own).tobytes()


def _is_held_twice(graph: gs.Graph, part: gs.Graph, source: gs.Constant) -> bool:
    """True where a constant, of which a layer has a view, would stay in float for what else reads it."""
    if not source.outputs or is_output(graph, source) or _is_weight(source):
        return False
    is_seen = part is graph or not is_captured(part, source)
    return is_seen and read(source).nbytes > _NODES_BYTES


def _turned_back(
    views: Sequence[gs.Node], source: gs.Constant, values: Sequence[Array]
) -> list[tuple[str, list[int]]]:
    """The operators that undo the views, the last view first, each with its permutation or shape."""
    shapes = [tuple(source.shape), *(array.shape for array in values)]
    steps = []
    for view, before in reversed([*zip(views, shapes, strict=False)]):
        perm = attribute(view, "perm", [*reversed(range(len(before)))])
        is_moved = view.op == "Transpose"
        steps.append((view.op, np.argsort(perm).tolist()) if is_moved else ("Reshape", [*map(int, before)]))
    return steps


def _read_turned_back(
    graph: gs.Graph,
    part: gs.Graph,
    source: gs.Constant,
    weight: gs.Constant,
    steps: Sequence[tuple[str, list[int]]],
) -> None:
    """Everything that reads the source reads the weight through the steps."""
    builder = next(b for b in builders(graph) if b.graph is part)
    readers, known, tensor = list(source.outputs), len(part.nodes), weight
    for op, numbers in steps:
        if op == "Transpose":
            tensor = builder.node(op, [tensor], source.name, {"perm": numbers})
        else:
            shape = builder.constant(f"{source.name}_shape", np.array(numbers, np.int64))
            tensor = builder.node(op, [tensor, shape], source.name)
    redirect(readers, source, tensor)
    part.nodes[:] = [*part.nodes[known:], *part.nodes[:known]]
