"""Guards and small edits that several passes share: constants, sole readers, per-channel values.

A guard raises NoMatch with the reason; `rewrite_each` turns that into one line at DEBUG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import update_wrapper
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxmpq.values.arrays import Array

Rewrite = Callable[[gs.Graph, gs.Node], None]
Attribute = TypeVar("Attribute")

_SAME_SHAPE = {"BatchNormalization", "Dropout", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
FLOATS = tuple(np.dtype(t) for t in (np.float16, np.float32, np.float64))


class NoMatch(Exception):  # noqa: N818 - a pattern that does not apply is no error
    """Why a rewrite does not apply to a node; raised before anything is edited."""


def require(condition: bool, reason: str) -> None:
    """Raise NoMatch with `reason` unless `condition` holds."""
    if not condition:
        raise NoMatch(reason)


def rewrite_each(graph: gs.Graph, ops: Iterable[str], rewrite: Rewrite) -> bool:
    """Offer every node of the standard operators `ops` to `rewrite` until none is taken; True if one was.

    Nodes of control-flow subgraphs are not offered. `rewrite` raises NoMatch before its first edit, or edits.
    """
    wanted = frozenset(ops)
    changed = False
    while _sweep(graph, wanted, rewrite):
        changed = True
    return changed


def rewrites(ops: Iterable[str]) -> Callable[[Rewrite], Callable[[gs.Graph], bool]]:
    """Makes the rewrite of a node the pass `graph -> changed?` that offers it every node of these operators."""

    def decorate(rewrite: Rewrite) -> Callable[[gs.Graph], bool]:
        def rewrite_all(graph: gs.Graph) -> bool:
            return rewrite_each(graph, ops, rewrite)

        return update_wrapper(rewrite_all, rewrite)

    return decorate


def _sweep(graph: gs.Graph, ops: frozenset[str], rewrite: Rewrite) -> bool:
    logger = logging.getLogger(rewrite.__module__)
    changed = False
    for node in [n for n in graph.nodes if n.op in ops and is_standard(n)]:
        try:
            rewrite(graph, node)
        except NoMatch as reason:
            logger.debug("%s %s is left alone: %s", node.op, label(node), reason)
        else:
            changed = True
    return changed


def is_standard(node: gs.Node) -> bool:
    """True for an operator of the ONNX domain itself."""
    return node.domain in {None, "", "ai.onnx"}


def position(items: Sequence[Any], item: object) -> int:
    """The index by identity: tensors and nodes of graphsurgeon compare by value."""
    return next(i for i, other in enumerate(items) if other is item)


def label(node: gs.Node) -> str:
    """A node's name, or its first output's where it has none."""
    return str(node.name or (node.outputs[0].name if node.outputs else "without outputs"))


def attribute(node: gs.Node, name: str, default: Attribute) -> Attribute:
    """The attribute `name`, or `default` where the node does not carry it."""
    value: Attribute = node.attrs.get(name, default)
    return value


def type_name(tensor: gs.Tensor) -> str | None:
    """The type of a tensor by its name, which NumPy need not have; None where the graph says none."""
    if tensor.dtype is None:
        return None
    if isinstance(tensor.dtype, int):
        return str(onnx.TensorProto.DataType.Name(tensor.dtype)).lower()
    return str(np.dtype(tensor.dtype).name)


def holds_integers(tensor: gs.Tensor) -> bool:
    """True where the graph says that a tensor's type is an integer one."""
    return (type_name(tensor) or "").startswith(("int", "uint"))


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """Input `index`, or None where it is left out (short list or empty name)."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and every control-flow subgraph inside it."""
    yield graph
    yield from graph.subgraphs(recursive=True)


def holds(graph: gs.Graph, node: gs.Node) -> bool:
    """True where `node` is one of the graph's own nodes (not a subgraph's); nodes compare equal by value in gs."""
    return any(own is node for own in graph.nodes)


def is_captured(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """True where a node outside this graph's own list reads `tensor`: a subgraph, by name."""
    return not all(holds(graph, reader) for reader in tensor.outputs)


def producer(tensor: gs.Tensor) -> gs.Node:
    """The node that computes `tensor`; NoMatch for a graph input, a constant, or an operator of another domain."""
    require(len(tensor.inputs) == 1, f"{tensor.name} is not computed")
    require(is_standard(tensor.inputs[0]), f"{tensor.name} is made by an operator of another domain")
    return tensor.inputs[0]


def maker(tensor: gs.Tensor, op: str) -> gs.Node:
    """The node that computes what a node reads; NoMatch unless it is of that standard operator."""
    if not tensor.inputs or tensor.inputs[0].op != op or not is_standard(tensor.inputs[0]):
        raise NoMatch(f"it reads no {op}")
    return tensor.inputs[0]


def is_private(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """True where `tensor` is read exactly once and is no graph output."""
    return len(tensor.outputs) == 1 and tensor not in graph.outputs


def is_used(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """True where a node reads `tensor`, or it is a graph output."""
    return bool(tensor.outputs) or any(tensor is output for output in graph.outputs)


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """True where `tensor` is an output of the graph or of one of its subgraphs."""
    return any(output is tensor for part in graphs(graph) for output in part.outputs)


def require_private(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """NoMatch unless `tensor` is read exactly once and is no graph output."""
    require(tensor not in graph.outputs, f"{tensor.name} is a graph output")
    require(is_private(graph, tensor), f"{tensor.name} is read {len(tensor.outputs)} times, wanted once")


def is_constant(tensor: gs.Tensor | None) -> bool:
    """True for a dense constant of a NumPy dtype."""
    if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):  # noqa: SLF001
        return False
    return not isinstance(tensor.dtype, int)  # an int is an ONNX type that NumPy lacks


def is_float_constant(tensor: gs.Tensor | None) -> bool:
    """True for a dense constant of half, single or double precision."""
    return tensor is not None and is_constant(tensor) and tensor.dtype in FLOATS


def read(tensor: gs.Tensor | None) -> Array:
    """The values of a constant, NoMatch for anything else.

    Leaves lazily loaded values unloaded: the property `values` would load them for good, and a graph that
    was only looked at would be written with other bytes.
    """
    if tensor is None or not is_constant(tensor):
        raise NoMatch(f"{'an input' if tensor is None else tensor.name} is not constant")
    values = tensor._values  # noqa: SLF001
    return np.asarray(values.load() if isinstance(values, LazyValues) else values)


def known_rank(tensor: gs.Tensor) -> int | None:
    """The number of dimensions, where the graph says it or the nodes before leave no choice; else None."""
    if tensor.shape is not None:
        return len(tensor.shape)
    if len(tensor.inputs) != 1 or not is_standard(tensor.inputs[0]):
        return None
    node = tensor.inputs[0]
    if node.op in {"Flatten", "Gemm"}:
        return 2
    if node.op in _SAME_SHAPE:
        return known_rank(node.inputs[0])
    if node.op not in {"Add", "MatMul"} or not is_constant(node.inputs[1]):
        return None
    rank, other = known_rank(node.inputs[0]), len(node.inputs[1].shape)
    # MatMul drops a dimension when an operand is a vector.
    return None if rank is None or (node.op == "MatMul" and min(rank, other) < 2) else max(rank, other)


def per_channel(values: Array, rank: int, axis: int, channels: int) -> NDArray[np.float64]:
    """One float64 value per channel, [channels], from a constant that broadcasts against a layer's output.

    The output has `rank` dimensions and its channels on `axis`. NoMatch where the constant varies along
    another axis, or would change the output's shape.
    """
    require(
        values.ndim <= rank, f"a constant of {values.ndim} dimensions may raise the output's rank of {rank}"
    )
    shape = (1,) * (rank - values.ndim) + values.shape
    others = [size for i, size in enumerate(shape) if i != axis % rank]
    require(
        all(size == 1 for size in others) and shape[axis] in {1, channels},
        f"a constant of shape {list(values.shape)} is not one value for each of {channels} channels",
    )
    return np.broadcast_to(values.astype(np.float64).reshape(-1), channels)


def scalar_operand(node: gs.Node) -> tuple[int, float]:
    """Which of two operands is a constant of one value that raises no rank, and the value; NoMatch where none is."""
    require(
        len(node.inputs) == 2 and not node.attrs, "it has no two operands, or broadcasts as before opset 7"
    )
    for place, tensor in enumerate(node.inputs):
        rank = known_rank(node.inputs[1 - place])
        is_one = is_float_constant(tensor) and all(size == 1 for size in tensor.shape)
        if is_one and len(tensor.shape) <= (1 if rank is None else rank):
            return place, float(read(tensor).item())
    raise NoMatch("none of its operands is a scalar constant")


def scalar_factor(node: gs.Node) -> tuple[int, float]:
    """Where a Mul or Div by a scalar constant has that, and what it multiplies by; NoMatch for other nodes."""
    require(node.op in {"Mul", "Div"} and is_standard(node), f"{node.op} multiplies by nothing")
    place, value = scalar_operand(node)
    if node.op == "Mul":
        return place, value
    require(place == 1 and value != 0, "it divides a scalar, or by zero")
    return place, 1 / value


def pads_by_axis(pad: gs.Node, rank: int) -> list[tuple[int, int]]:
    """What a Pad (11 and later) adds at the begin and at the end of each axis; NoMatch where that is not constant."""
    require(len(pad.inputs) > 1, "its pads are no input: it is older than Pad-11")
    pads, axes = read(pad.inputs[1]).tolist(), optional_input(pad, 3)
    padded = list(range(rank)) if axes is None else [axis % rank for axis in read(axes).tolist()]
    require(len(pads) == 2 * len(padded), f"it gives {len(pads)} pads for {len(padded)} axes")
    begins, ends = (dict(zip(padded, side, strict=True)) for side in np.split(np.array(pads), 2))
    return [(int(begins.get(axis, 0)), int(ends.get(axis, 0))) for axis in range(rank)]


def scaled(values: Array, factor: float) -> Array:
    """`values` times a factor, computed in float64; NoMatch where their dtype cannot hold a product to its precision."""
    exact = values.astype(np.float64) * factor
    with np.errstate(all="ignore"):
        stored = exact.astype(values.dtype)
        is_held = np.abs(stored - exact) <= np.finfo(values.dtype).eps * np.abs(exact)
    require(bool(is_held.all()), f"times {factor:g} a value would be no {values.dtype}")
    return np.asarray(stored)


def set_input(node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    """Put `tensor` at input `index`, which may be one past the last."""
    if index == len(node.inputs):
        node.inputs.append(tensor)
    else:
        node.inputs[index] = tensor


def redirect(readers: Iterable[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    """Make `readers` read `new` where they read `old`."""
    for reader in list(readers):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new


def remove(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take nodes out of the graph, with their edges."""
    gone = {id(node): node for node in nodes}
    for node in gone.values():
        node.outputs.clear()
        node.inputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def absorb_into(graph: gs.Graph, earlier: gs.Node, later: gs.Node) -> None:
    """Remove `later`; `earlier` now produces its output, so that the output keeps its name and readers."""
    output = later.outputs[0]
    remove(graph, [later])
    earlier.outputs[0] = output


def own_name(graph: gs.Graph, constant: gs.Constant) -> str:
    """What to call a constant's new values for its one reader: as before, unless others read the old ones as well."""
    return str(constant.name) if is_private(graph, constant) else unique_name(graph, constant.name)


def unique_name(graph: gs.Graph, wanted: str) -> str:
    """`wanted`, or with a number behind it where some tensor of the graph or its subgraphs has that name."""
    taken = {name for g in graphs(graph) for name in g.tensors()}
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name
