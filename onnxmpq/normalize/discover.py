"""Graph -> layers: every constant weight of an operator that has one, and why some must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from onnxmpq.operators import OPERATORS, Shapes, deciding, held_places, is_computing, part_name, weight_places
from onnxmpq.operators.gather import GATHER
from onnxmpq.passes.matching import graphs, holds, optional_input
from onnxmpq.passes.normalize.fold_computed_weights import why_computed
from onnxmpq.values.layer import VECTOR, Layer, Layout
from onnxmpq.values.option import FLOAT_BITS, HALF_BITS

_WEIGHT_BITS = {np.dtype(np.float32): FLOAT_BITS, np.dtype(np.float16): HALF_BITS}


@dataclass(frozen=True, slots=True, eq=False)
class _User:
    """A node that reads a weight at an input; `position` is its number among those that may hold one."""

    node: gs.Node
    place: int
    name: str
    nested: bool
    position: int

    @property
    def layout(self) -> Layout:
        return OPERATORS[self.node.op].layout(self.node, self.place)

    @property
    def layer_name(self) -> str:
        return self.name + part_name(self.node, self.place)

    def macs(self, shapes: Shapes) -> int:
        return OPERATORS[self.node.op].macs(self.node, self.place, shapes)


def discover(graph: gs.Graph, shapes: Shapes, samples: int = 1) -> tuple[Layer, ...]:
    """All layers in execution order, those that cannot be quantized with their reason.

    `shapes` are traced shapes of the graph's tensors in a run on so many `samples`: one, or as many as the graph
    demands. MACs are those of one sample, 0 where no shape is known: without `shapes`, and in control-flow bodies.
    """
    held: dict[int, list[_User]] = {}
    found: list[tuple[int, int, Layer]] = []
    for position, (node, name, nested) in enumerate(layer_names(graph)):
        places = held_places(node)
        for place in places:
            user = _User(node, place, name, nested, position)
            held.setdefault(id(node.inputs[place]), []).append(user)
        for place in _computed_places(node, places):
            found.append((position, place, _computed(graph, node, name + part_name(node, place), place)))
    outputs = {id(tensor) for tensor in graph.outputs}
    for users in held.values():
        found.append((users[0].position, users[0].place, _layer(users, shapes, samples, outputs)))
    return tuple(layer for *_, layer in sorted(found, key=lambda entry: entry[:2]))


def layer_names(graph: gs.Graph, tables: Collection[str] = ()) -> list[tuple[gs.Node, str, bool]]:
    """Every node that may hold a weight, its name, and whether it lies inside a control-flow subgraph.

    A layer is named by its node, or by its output tensor where nodes have no names or equal ones. `tables` are looked up as
    codes: these are weights as well.
    """
    walked = _walk(graph, nested=False)
    nodes = [(n, nested) for n, nested in walked if weight_places(n) or is_lookup(n, tables)]
    counts = Counter(node.name for node, _ in nodes)
    outputs = Counter(node.outputs[0].name for node, _ in nodes)
    taken: Counter[str] = Counter()
    found = []
    for node, nested in nodes:
        own = bool(node.name) and counts[node.name] == 1 and not outputs[node.name]
        name = node.name if own else next(t.name for t in node.outputs if t.name)
        taken[name] += 1
        found.append((node, name if taken[name] == 1 else f"{name}#{taken[name]}", nested))
    return found


def is_lookup(node: gs.Node, tables: Collection[str]) -> bool:
    """True for a Gather from one of these tables."""
    return node.op == GATHER.name and node.inputs[0].name in tables


def readers_of(graph: gs.Graph, layers: Sequence[Layer], tensors: Collection[str]) -> set[str]:
    """The names of the layers that read one of these tensors."""
    reading = {name for node, name, _ in layer_names(graph) if any(t.name in tensors for t in node.inputs)}
    return {layer.name for layer in layers if reading.intersection(layer.nodes)}


def _walk(graph: gs.Graph, *, nested: bool) -> Iterator[tuple[gs.Node, bool]]:
    for node in graph.nodes:
        yield node, nested
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _walk(value, nested=True)


def _layer(users: Sequence[_User], shapes: Shapes, samples: int, outputs: Collection[int]) -> Layer:
    deciders = _deciding(users)
    first = deciders[0]
    node, weight = first.node, first.node.inputs[first.place]
    shape, dtype = tuple(int(d) for d in weight.shape), _dtype(weight)
    return Layer(
        name=first.layer_name,
        op=node.op,
        nodes=tuple(dict.fromkeys(user.name for user in users)),
        weight=weight.name,
        shape=shape,
        layout=_common_layout(deciders) if len(shape) > 1 else VECTOR,
        positions=OPERATORS[node.op].positions(node, shapes),
        macs=sum(user.macs(shapes) for user in users) // samples,
        float_bits=_WEIGHT_BITS.get(dtype, dtype.itemsize * 8),
        bias=_own_bias(node, shape, outputs) if len(users) == 1 and not first.nested else None,
        weights_only=any(user.nested for user in users),
        reason="its weight is an output of the model"
        if id(weight) in outputs
        else _refusal(shape, dtype, deciders, weight),
    )


def _deciding(users: Sequence[_User]) -> list[_User]:
    """Those of a weight's users that say how it is laid out, in order."""
    kept = [(id(node), place) for node, place in deciding([(user.node, user.place) for user in users])]
    return [user for user in users if (id(user.node), user.place) in kept]


def _common_layout(users: Sequence[_User]) -> Layout:
    """The first node's; blind where others read the weight in another one."""
    first, *others = {user.layout: None for user in users}
    return replace(first, blind="nodes that share its weight read it in different ways") if others else first


def _dtype(weight: gs.Constant) -> np.dtype[Any]:
    """Its type in NumPy; those that NumPy has no type for are numbers of ONNX's in the graph."""
    known = not isinstance(weight.dtype, int)
    return np.dtype(weight.dtype) if known else helper.tensor_dtype_to_np_dtype(weight.dtype)


def _own_bias(node: gs.Node, shape: tuple[int, ...], outputs: Collection[int]) -> str | None:
    """The name of the bias that rounding may move, where it is one constant a channel that nothing else reads."""
    slot = OPERATORS[node.op].bias
    bias = optional_input(node, slot.place) if slot is not None and slot.moves else None
    scaled = any(node.attrs.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta"))
    if not isinstance(bias, gs.Constant) or len(bias.outputs) != 1 or id(bias) in outputs or scaled:
        return None
    channels = shape[OPERATORS[node.op].layout(node, 1).axis]
    return bias.name if tuple(bias.shape) == (channels,) else None


def _refusal(shape: tuple[int, ...], dtype: Any, users: Sequence[_User], weight: gs.Constant) -> str | None:
    if dtype not in _WEIGHT_BITS:
        return f"its weight is {dtype}, not float32 or float16"
    if len(shape) < 2:
        return f"its weight has the shape {list(shape)}: a vector has no output channels"
    if 0 in shape:
        return "its weight is empty"
    ways = len({(user.layout.axis, user.layout.group) for user in users})
    if ways > 1:
        return (
            f"nodes read its weight in {ways} ways, along different axes or in different groups; {ways} copies of its "
            "codes would take more bytes than it does"
        )
    if not np.isfinite(weight.values).all():
        return "its weight holds NaN or Inf"
    return None


def _computed_places(node: gs.Node, held: Sequence[int]) -> list[int]:
    """The inputs, one without parts, that a weight comes to out of constants alone, by any number of nodes.

    What is looked up is mostly a shape, and no weight.
    """
    operator = OPERATORS[node.op]
    if not is_computing(node.op) or len(node.inputs) < 2 or (held and not operator.parts):
        return []
    free = [place for place in weight_places(node) if place not in held]
    found = [place for place in free if is_made_of_constants(node.inputs[place])]
    return found if operator.parts else found[:1]


def is_made_of_constants(tensor: gs.Tensor) -> bool:
    """True for what nodes compute from constants alone, of any type, by any number of them."""
    if not tensor.inputs:
        return False
    seen, waiting = set(), [tensor]
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor, gs.Constant) or tensor.is_empty() or id(tensor) in seen:
            continue
        if not tensor.inputs or any(not maker.inputs for maker in tensor.inputs):  # data, or random numbers
            return False
        seen.add(id(tensor))
        waiting.extend(read for maker in tensor.inputs for read in maker.inputs)
    return True


def _computed(graph: gs.Graph, node: gs.Node, name: str, place: int) -> Layer:
    """A layer without a weight of its own: nothing of it is stored in float, so nothing counts."""
    part = next(part for part in graphs(graph) if holds(part, node))
    weight = node.inputs[place]
    reason = f"its weight is {why_computed(part, weight)}"
    return Layer(name, node.op, (name,), weight.name, (0,), VECTOR, reason=reason)
