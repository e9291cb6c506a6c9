"""Where activations are quantized: which tensors get a Q/DQ pair, which share a scale, and what stays in float.

The rules are those of ONNX Runtime's CPU provider (1.31, opsets 13 to 26), which replaces DQ -> op -> Q by one
integer kernel. Pure analysis: the graph is only read. What a kernel is says `units`, which nodes have one `refusals`, where
one does not pay `streams`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS, is_computing
from onnxmpq.place.clamps import clamps_at_zero
from onnxmpq.place.readers import Readers
from onnxmpq.place.refusals import float_layers, refusal, values_of
from onnxmpq.place.units import Unit, better_in_float, units_of
from onnxmpq.values.layer import Layer
from onnxmpq.values.placement import Placement


def place_activations(
    graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str], *, whole: bool = False
) -> Placement:
    """Quantize the activations around the layers named in `integer`, and whatever lies between them.

    The least set of tensors: inputs of integer layers, outputs of those that need it, both sides of every
    operator with an integer kernel that lies on a path between two such tensors, and what sums and pools make of
    them. What lies between float operators alone stays in float, as do control-flow subgraphs. With `whole` it is all
    tensors that any integer kernel reads or makes, the graph's outputs too. `graph` is normalised and topologically
    sorted.
    """
    readers = Readers(graph)
    left = float_layers(graph, layers, integer)
    weights = {layer.weight for layer in layers if layer.name not in left}
    units = list(units_of(graph, readers, weights, whole=whole))
    quantized = _around(units) if whole and any(u.is_layer for u in units) else _quantized(units)
    kernels = [u for u in units if u.is_layer or quantized.issuperset(u.inputs + u.outputs)]
    tensors = _in_order(graph, quantized)
    return Placement(
        tensors=tensors,
        same_scale=_groups(kernels, tensors),
        float_sources=_float_sources(kernels, tensors),
        split_biases=frozenset(_split_biases(kernels, quantized)),
        float_ops=_float_ops(graph, kernels, quantized, readers, weights),
        integer_layers=tuple(layer.name for layer in layers if layer.name not in left),
        float_layers=left,
    )


def place_whole(graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str]) -> Placement:
    """Quantize whatever can be, for accelerators that run a whole graph in integers or leave parts of it to a CPU."""
    return place_activations(graph, layers, integer, whole=True)


def _around(units: Iterable[Unit]) -> frozenset[str]:
    return frozenset(chain.from_iterable(u.inputs + u.outputs for u in units))


def _quantized(units: Sequence[Unit]) -> frozenset[str]:
    """The least set of tensors that holds the layers' inputs and is closed under both rules below."""
    found = frozenset(chain.from_iterable(u.inputs for u in units if u.is_layer))
    while not found.issuperset(more := _behind(units, found) | _between(units, found)):
        found |= more
    return found


def _behind(units: Iterable[Unit], quantized: frozenset[str]) -> frozenset[str]:
    """The outputs of layers and other units that always give codes for codes, where a kernel made some of these."""
    made: set[str] = set()
    found: set[str] = set()
    for unit in units:
        if not quantized.issuperset(unit.inputs):
            continue
        if unit.always and (unit.is_layer or not made.isdisjoint(unit.inputs)):
            found.update(unit.outputs)
        if unit.is_layer or quantized.issuperset(unit.outputs):
            made.update(unit.outputs)
    return frozenset(found)


def _between(units: Sequence[Unit], quantized: frozenset[str]) -> frozenset[str]:
    """The tensors of all units on paths from a quantized tensor, or a layer, to a quantized tensor.

    One quantized input is enough: to quantize another is cheaper than to leave the integer domain and return.
    """
    reached = set(quantized)
    forward = []
    for unit in units:
        if unit.is_layer or not reached.isdisjoint(unit.inputs):
            reached.update(unit.outputs)
            forward.append(unit)
    needed = set(quantized)
    tensors: set[str] = set()
    for unit in reversed(forward):
        if not unit.is_layer and not needed.isdisjoint(unit.outputs):
            needed.update(unit.inputs)
            tensors.update(unit.inputs + unit.outputs)
    return frozenset(tensors)


def _in_order(graph: gs.Graph, names: Collection[str]) -> tuple[str, ...]:
    """Names in the order in which the graph makes them; constants where they are first read."""
    seen = chain([graph.inputs], *([node.inputs, node.outputs] for node in graph.nodes))
    order = dict.fromkeys(tensor.name for tensors in seen for tensor in tensors)
    return tuple(name for name in order if name in names)


def _groups(kernels: Iterable[Unit], tensors: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Tensors that share one scale, each group led by the one whose range holds for all."""
    groups: dict[str, tuple[str, ...]] = {}
    for unit in kernels:
        if not unit.joined:
            continue
        members = dict.fromkeys(chain.from_iterable(groups.get(name, (name,)) for name in unit.joined))
        group = (*unit.outputs, *members) if unit.lead else (*members, *unit.outputs)
        groups.update(dict.fromkeys(group, group))
    return tuple(sorted(set(groups.values()), key=lambda group: min(map(tensors.index, group))))


def _float_sources(kernels: Sequence[Unit], tensors: Sequence[str]) -> dict[str, frozenset[str]]:
    made = set(chain.from_iterable(u.outputs for u in kernels))
    users: dict[str, set[str]] = {name: set() for name in tensors if name not in made}
    for unit in kernels:
        for name in unit.inputs:
            if name in users:
                users[name].add(unit.node.outputs[0].name)
    return {name: frozenset(found) for name, found in users.items()}


def _split_biases(kernels: Iterable[Unit], quantized: frozenset[str]) -> Iterator[str]:
    """Weights of nodes that have an integer kernel only without their bias."""
    for unit in kernels:
        kernel = OPERATORS[unit.node.op].integer if unit.is_layer else None
        if kernel is not None and kernel.leaves_bias(unit.node, unit.outputs[0] in quantized):
            yield unit.node.inputs[1].name


def _float_ops(
    graph: gs.Graph,
    kernels: Iterable[Unit],
    quantized: frozenset[str],
    readers: Readers,
    weights: Collection[str],
) -> dict[str, str]:
    integer = {id(node) for unit in kernels for node in unit.nodes}
    return {
        node.outputs[0].name: _why_float(node, quantized, readers, weights)
        for node in graph.nodes
        if id(node) not in integer
        and not is_computing(node.op)
        and node.op not in {"Shape", "Size"}
        and any(t.name in quantized for t in chain(node.inputs, node.outputs))
    }


def _why_float(node: gs.Node, quantized: frozenset[str], readers: Readers, weights: Collection[str]) -> str:
    if clamps_at_zero(node):
        return "no integer kernel makes its input for it alone"
    reason = refusal(node) or better_in_float(node, readers, weights)
    if reason is not None:
        return reason
    if all(t.name not in quantized for t in values_of(node)):
        return "its result is read in float"
    return "its inputs are made in float"
