"""Constant nodes become constants of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import NoMatch, graphs, is_captured, is_constant, redirect, require, rewrite_each

# The attributes of Constant-13 that hold numbers, and how each becomes a tensor.
_VALUES: dict[str, Callable[[Any], Any]] = {
    "value_float": np.float32,
    "value_floats": lambda values: np.array(values, np.float32),
    "value_int": np.int64,
    "value_ints": lambda values: np.array(values, np.int64),
}


def lift_constants(graph: gs.Graph) -> bool:
    """Turn every Constant node, and every Identity of a constant, into a gs.Constant of the same graph.

    Works inside control-flow subgraphs too. A node stays where it makes a graph output, or holds strings or
    a sparse tensor. Preserving: the outputs are bit-equal.
    """
    changed = False
    for part in graphs(graph):
        if rewrite_each(part, ("Constant", "Identity"), _lift):
            part.nodes[:] = [node for node in part.nodes if node.outputs]  # at once: there may be thousands
            changed = True
    return changed


def _lift(graph: gs.Graph, node: gs.Node) -> None:
    require(bool(node.outputs), "it is lifted already")
    constant = _constant_made_by(graph, node)
    redirect(node.outputs[0].outputs, node.outputs[0], constant)
    node.inputs.clear()
    node.outputs.clear()


def _constant_made_by(graph: gs.Graph, node: gs.Node) -> gs.Constant:
    output = node.outputs[0]
    require(output not in graph.outputs, f"{output.name} is a graph output")
    if node.op == "Identity":
        require(is_constant(node.inputs[0]), f"{node.inputs[0].name} is not constant")
        # A subgraph may use the constant's name for a tensor of its own.
        require(not is_captured(graph, output), f"{output.name} is read by a subgraph")
        return node.inputs[0]
    value = node.attrs.get("value")
    if isinstance(value, gs.Constant):
        value.name = output.name
        return value
    for attribute, convert in _VALUES.items():
        if attribute in node.attrs:
            return gs.Constant(output.name, np.asarray(convert(node.attrs[attribute])))
    raise NoMatch("its value is no dense tensor of numbers")
