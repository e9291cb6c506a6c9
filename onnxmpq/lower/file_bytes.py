"""Bytes of a plan's file, without the file: only what widths change is built, and tensors have no bytes.

The passes that store weights run as they do for a file, on a copy of the frame, but the codes are never packed: a
tensor's bytes follow from its type and shape, and the length of every protobuf message around it from theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxmpq.context.prepared import Activations, Prepared
from onnxmpq.lower.lower_plan import Frame, frame, gathered_tables, known_names, planned_opset, store
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.onnx_io.default_attributes import drop_defaults, without_defaults
from onnxmpq.onnx_io.graph import export_model
from onnxmpq.onnx_io.late_values import LateValues, raw_bytes
from onnxmpq.onnx_io.node_names import name_nodes
from onnxmpq.onnx_io.short_names import shorten_names
from onnxmpq.passes.matching import graphs, redirect
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.requirements import describe
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Target

_MOST_FRAMES = 3  # one for each opset that packed weights may need; each holds the float model


@dataclass(frozen=True, slots=True)
class _Framed:
    """A frame, its constants, its model with tensors without bytes, and what it was made from."""

    frame: Frame
    constants: dict[str, gs.Constant]
    bare: onnx.ModelProto
    made_from: tuple[Prepared, Activations]

    def size(self, prepared: Prepared, plan: Plan, candidates: Candidates, target: Target) -> int:
        whole = self.frame.graph
        filled = Frame(_copied(whole), self.frame.placement)
        store(filled, prepared, plan, candidates, target)
        model = onnx.ModelProto()
        model.CopyFrom(self.bare)
        new = filled.graph.nodes[: len(filled.graph.nodes) - len(whole.nodes)]
        opset = opset_version(self.bare)
        model.graph.node.extend(without_defaults(_node(node), opset) for node in new)
        _replace_constants(model.graph, self.constants, _constants(filled.graph))
        name_nodes(model)
        describe(model, target)
        shorten_names(model, known_names(prepared.layers))
        return full_size(model)


@dataclass(slots=True)
class FileBytes:
    """Counts the bytes of plans' files; remembers the frames of the last few kinds of plans."""

    _framed: dict[tuple[Any, ...], _Framed] = field(default_factory=dict)

    def of(
        self, prepared: Prepared, plan: Plan, candidates: Candidates, activations: Activations, target: Target
    ) -> int:
        """Bytes of the file of what `lower` gives for the same arguments, as it is written; raises what it raises."""
        asked = frozenset(name for name, o in plan.options.items() if o.activation_bits is not None)
        opset = planned_opset(plan, prepared, target)
        gathered = gathered_tables(plan, prepared, target)
        key = (id(prepared), id(activations), target, opset, asked, gathered)
        if key not in self._framed:
            if len(self._framed) == _MOST_FRAMES:
                del self._framed[next(iter(self._framed))]
            found = frame(prepared, plan, activations, target)
            bare = drop_defaults(without_bytes(export_model(found.graph, prepared.original)))
            self._framed[key] = _Framed(found, _constants(found.graph), bare, (prepared, activations))
        return self._framed[key].size(prepared, plan, candidates, target)


def without_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, edited in place: initializers of the main graph whose size their type and shape tell lose their bytes."""
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and len(tensor.raw_data) == raw_bytes(tensor):
            tensor.raw_data = b""
    return model


def full_size(model: onnx.ModelProto) -> int:
    """Bytes of a model whose initializers without bytes have theirs."""
    graph, grown = model.graph.ByteSize(), 0
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and not tensor.raw_data:
            bare = tensor.ByteSize()
            grown += _field(bare - _field(0) + _field(raw_bytes(tensor))) - _field(bare)
    return int(model.ByteSize() - _field(graph) + _field(graph + grown))


def _field(length: int) -> int:
    """Bytes of a message or of bytes of that length in another message: a tag below 16, the length in sevens of bits."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length


def _node(node: gs.Node) -> NodeProto:
    inputs, outputs = ([tensor.name for tensor in some] for some in (node.inputs, node.outputs))
    return helper.make_node(node.op, inputs, outputs, node.name, domain=node.domain, **node.attrs)


def _copied(graph: gs.Graph) -> gs.Graph:
    """A copy in which a constant that several graphs read stays one: graphsurgeon makes one for each of them."""
    copied, firsts = graph.copy(), dict[int, gs.Constant]()
    for before, after in zip(graphs(graph), graphs(copied), strict=True):
        made = after.tensors()
        for name, tensor in before.tensors().items():
            if isinstance(tensor, gs.Constant):
                first = firsts.setdefault(id(tensor), made[name])
                redirect(made[name].outputs if first is not made[name] else (), made[name], first)
    return copied


def _constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    tensors = (tensor for inner in graphs(graph) for tensor in inner.tensors().values())
    return {tensor.name: tensor for tensor in tensors if isinstance(tensor, gs.Constant)}


def _replace_constants(
    graph: onnx.GraphProto, before: dict[str, gs.Constant], after: dict[str, gs.Constant]
) -> None:
    """The constants `before` become those `after`, but for those that have kept their values."""
    kept = {n for n in before.keys() & after.keys() if before[n]._values is after[n]._values}  # noqa: SLF001
    gone = before.keys() - kept
    left = [tensor for tensor in graph.initializer if tensor.name not in gone]
    new = [_bare(constant) for name, constant in after.items() if name not in kept]
    del graph.initializer[:]
    graph.initializer.extend([*left, *new])


def _bare(constant: gs.Constant) -> TensorProto:
    """The tensor of a new constant, without bytes where they are not made yet."""
    values = constant._values  # noqa: SLF001 - the property would load what is stored lazily
    if not isinstance(values, LateValues):
        return numpy_helper.from_array(values, constant.name)
    tensor = TensorProto(name=constant.name)
    tensor.MergeFrom(values.bare)
    return tensor
