"""Layers that read one weight along different axes get a copy each, which then has scales of its own."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators import WeightUse, deciding, held_places, uses_of, way_of
from onnxmpq.passes.matching import graphs, is_float_constant, is_output, read, unique_name
from onnxmpq.passes.normalize.constant_nodes import STORED_BYTES


def part_shared_weights(graph: gs.Graph) -> bool:
    """Copy a weight whose layers (`onnxmpq.operators`) disagree on its output channels or its groups.

    One scale a channel fits one axis only. Layers that agree share a copy, and so does what is no layer, or only looks
    the weight up, with the first of them. Only where the file does not grow: the copies take no more at one byte an element than the weight does.
    Works inside control-flow subgraphs too. Preserving: the outputs are bit-equal.
    """
    changed = False
    for weight in _weights(graph):
        users = _users(weight)
        if len(users) > 1 and _pays(weight, len(users)) and not is_output(graph, weight):
            for uses in users[1:]:
                copy = gs.Constant(unique_name(graph, weight.name), read(weight))
                for node, place in uses:
                    node.inputs[place] = copy
            changed = True
    return changed


def _pays(weight: gs.Constant, copies: int) -> bool:
    """True where so many copies in codes take no more bytes than the weight in float."""
    return bool(copies * STORED_BYTES <= weight.dtype.itemsize)


def _weights(graph: gs.Graph) -> list[gs.Constant]:
    """The float constants that several layers read as their weights, in the graphs' order."""
    nodes = [node for part in graphs(graph) for node in part.nodes]
    held = [node.inputs[place] for node in nodes for place in held_places(node)]
    return list({id(weight): weight for weight in held if is_float_constant(weight)}.values())


def _users(weight: gs.Constant) -> list[list[WeightUse]]:
    """The layers that read a weight, those that agree on its axis and its groups together."""
    found: dict[tuple[int, int], list[WeightUse]] = {}
    for use in deciding(uses_of(weight)):
        found.setdefault(way_of(use), []).append(use)
    return list(found.values())
