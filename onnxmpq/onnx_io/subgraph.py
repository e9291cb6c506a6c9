"""Cut a model between nodes: which tensors cross, and a model of some of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxmpq.onnx_io.contents import subgraphs
from onnxmpq.onnx_io.graph import with_inferred_shapes
from onnxmpq.onnx_io.traced import Traced

# What shapes are computed with. How many values come of it does not depend on values, but for a Slice's bounds.
_OF_SIZES = frozenset({
    "Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Floor", "Gather", "Identity", "Max", "Min", "Mul", "Slice",
    "Squeeze", "Sub", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A model made of some nodes of another, in their order: what it reads and what it gives."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def extract(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    outputs: Iterable[str],
    traced: Mapping[str, Traced],
    *,
    free: Iterable[str] = (),
) -> Part:
    """The nodes as a model of their own that gives `outputs`.

    Its inputs are the tensors its nodes read and none of them makes; `free` are initializers that become
    inputs too. Shapes of inputs are left free, so that a batch of any size runs, but for the lengths of vectors that
    hold shapes: a Resize wants to know how many axes it is given sizes of.
    """
    freed = set(free)
    initializers = {i.name: i for i in model.graph.initializer if i.name not in freed}
    made = {name for node in nodes for name in node.output}
    read = list(dict.fromkeys(name for node in nodes for name in names_read(node)))
    inputs = tuple(name for name in read if name not in made and name not in initializers)
    given = tuple(name for name in outputs if name in made)
    fixed = _made_of_shapes(model)
    graph = helper.make_graph(
        list(nodes),
        "part",
        [_free_value(name, traced, is_fixed=name in fixed) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in given],
        [initializers[name] for name in read if name in initializers],
    )
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return Part(part, inputs, given)


def exposing(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with tensors that its nodes make as outputs besides its own; other names are left out."""
    known = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    wanted = dict.fromkeys(name for name in names if name in made and name not in known)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return tapped


def giving(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with tensors that its nodes make as its only outputs, and the nodes that these depend on."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(ancestors(list(model.graph.node), names))
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return cut


def with_known_sizes(part: onnx.ModelProto, whole: onnx.ModelProto) -> onnx.ModelProto:
    """A part of a model with those sizes of its inputs fixed that are the same for any batch, as onnx infers them.

    For operators whose own shape inference is wrong where sizes are free (Attention-23 of three axes).
    """
    inferred = with_inferred_shapes(whole).graph
    values = {v.name: v.type.tensor_type.shape.dim for v in (*inferred.value_info, *inferred.input)}
    known = {name: [size.dim_value for size in sizes] for name, sizes in values.items()}
    known |= {i.name: [*i.dims] for i in whole.graph.initializer}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(part)
    for value in fixed.graph.input:
        sizes = value.type.tensor_type.shape.dim
        for size, other in zip(sizes, known.get(value.name, ()), strict=False):
            if other:
                size.dim_value = other
    return fixed


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, those its control-flow bodies capture included."""
    yield from (name for name in node.input if name)
    for body in subgraphs([node]):
        yield from _captured(body)


def _captured(body: onnx.GraphProto) -> Iterator[str]:
    own = {i.name for i in body.initializer} | {i.name for i in body.input}
    own |= {name for node in body.node for name in node.output}
    for node in body.node:
        yield from (name for name in names_read(node) if name not in own)
    yield from (o.name for o in body.output if o.name not in own)


def crossing(
    nodes: Sequence[onnx.NodeProto], cut: int, outputs: Iterable[str], inputs: Iterable[str]
) -> list[str]:
    """Tensors made before position `cut` (or fed) that are needed at or behind it, or are graph outputs."""
    made = dict.fromkeys([*inputs, *(name for node in nodes[:cut] for name in node.output if name)])
    needed = {name for node in nodes[cut:] for name in names_read(node)} | set(outputs)
    return [name for name in made if name in needed]


def crossing_sizes(nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, int]) -> NDArray[np.int64]:
    """Bytes that cross each position, int64 [nodes + 1]: of tensors made before it that are read at or behind it.

    `sizes` are bytes of tensors; those that it lacks take none, and those that no node makes are fed.
    """
    last = {name: i for i, node in enumerate(nodes) for name in names_read(node)}
    made = dict.fromkeys(last, 0) | {name: i + 1 for i, node in enumerate(nodes) for name in node.output}
    changes = np.zeros(len(nodes) + 2, np.int64)
    for name, start in made.items():
        if name in last and name in sizes:
            changes[start] += sizes[name]
            changes[last[name] + 1] -= sizes[name]
    return np.cumsum(changes)[:-1]


def descendants(nodes: Sequence[onnx.NodeProto], starts: Iterable[int], stop: int) -> list[onnx.NodeProto]:
    """Nodes before `stop` whose result depends on that of a node at `starts`, those included, in order."""
    first = set(starts)
    touched: set[str] = set()
    found = []
    for index, node in enumerate(nodes[:stop]):
        if index in first or touched.intersection(names_read(node)):
            touched.update(node.output)
            found.append(node)
    return found


def ancestors(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Nodes that the named tensors depend on, in order."""
    wanted = set(names)
    found = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(names_read(node))
            found.append(node)
    return found[::-1]


def _made_of_shapes(model: onnx.ModelProto) -> set[str]:
    """Tensors made of the sizes of others, and constants, alone, as many for any batch."""
    initializers = {i.name for i in model.graph.initializer}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Slice" and not initializers.issuperset(filter(None, node.input[1:])):
            continue  # as long as the bounds have it
        if node.op_type in {"Shape", "Size"} or (
            node.op_type in _OF_SIZES and all(n in found or n in initializers for n in node.input if n)
        ):
            found.update(node.output)
    return found


def _free_value(name: str, traced: Mapping[str, Traced], *, is_fixed: bool) -> onnx.ValueInfoProto:
    """An input of the traced dtype and rank, all dimensions free or as traced; those in a container may be of any rank."""
    known = traced[name]
    free = [f"{name}_{axis}" for axis in range(len(known.shape))]
    shape = None if known.containers else list(known.shape) if is_fixed else free
    kind = helper.make_tensor_type_proto(known.elem_type, shape)
    for container in reversed(known.containers):
        wrap = helper.make_sequence_type_proto if container == "seq" else helper.make_optional_type_proto
        kind = wrap(kind)
    return helper.make_value_info(name, kind)
