"""Equal weights become one: it is stored once, however often an exporter wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxmpq.operators import held_places, is_computing, uses_of, way_of
from onnxmpq.passes.matching import graphs, is_float_constant, is_output, read, redirect
from onnxmpq.passes.normalize.constant_nodes import SHARED_VALUES
from onnxmpq.values.arrays import Array

_Key = tuple[bool, str, tuple[int, ...], bytes]


def share_equal_weights(graph: gs.Graph) -> bool:
    """Let layers (`onnxmpq.operators`) whose weights are equal read the first of them.

    Branches of an If that hold a copy each, and tables that are tied. Weights of the main graph and of control-flow
    bodies stay apart, since those of a body compute in float, and so do those that are computed with along different
    axes: each has scales of its own (`part_shared_weights`). Preserving: the outputs are bit-equal.
    """
    known: dict[_Key, list[gs.Constant]] = {}
    changed = False
    for weight, nested in list(_weights(graph)):
        alike = known.setdefault(_key(weight, nested=nested), [])
        first = next((other for other in alike if other is weight or _agree(other, weight)), None)
        if first is None:
            alike.append(weight)
        elif first is not weight and not is_output(graph, weight):
            redirect(weight.outputs, weight, first)
            changed = True
    return changed


def _agree(one: gs.Constant, other: gs.Constant) -> bool:
    """True unless both are computed with, along different axes or in different groups."""
    first, second = _ways(one), _ways(other)
    return not first or not second or first == second


def _ways(weight: gs.Constant) -> set[tuple[int, int]]:
    """The output axes and groups of the layers that compute with a weight."""
    return {way_of(use) for use in uses_of(weight) if is_computing(use[0].op)}


def _weights(graph: gs.Graph) -> Iterator[tuple[gs.Constant, bool]]:
    """The float constants that layers hold, each with whether it is read in a control-flow body.

    Small ones and those of one value, zeros say, may be equal by chance.
    """
    for part in graphs(graph):
        for weight in (node.inputs[place] for node in part.nodes for place in held_places(node)):
            if is_float_constant(weight) and _is_shared(read(weight)):
                yield weight, part is not graph


def _is_shared(values: Array) -> bool:
    return values.size >= SHARED_VALUES and bool((values != values.flat[0]).any())


def _key(weight: gs.Constant, *, nested: bool) -> _Key:
    values = read(weight)
    digest = hashlib.blake2b(values.tobytes()).digest()
    return nested, values.dtype.str, values.shape, digest
