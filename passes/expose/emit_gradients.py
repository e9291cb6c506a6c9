"""Gradients of a scalar loss as additional graph outputs, by reverse-mode differentiation of the graph.

The table of rules, one for each operator and input, is `onnxmpq.passes.gradients.rules`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.errors import ModelError
from onnxmpq.passes.emitter import Emitter, Shapes, Sizes
from onnxmpq.passes.gradients.rules import find_rule, is_parameter
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import NoMatch, graphs, is_constant, label, remove
from onnxmpq.passes.node_builder import builders

_LOGGER = logging.getLogger(__name__)
_LOWEST_OPSET = 13  # axes of Squeeze, Unsqueeze and ReduceSum are inputs


@dataclass(frozen=True, slots=True)
class EmitGradients:
    """Add `gradient_name(tensor)`, the gradient of `loss` with respect to each of `tensors`, to the graph outputs.

    `loss` names a float tensor of one value, `tensors` float tensors of the main graph: inputs, constants or
    values in between. A tensor that the loss does not depend on gets no output. Gradients have the shape and type
    of their tensors; where the loss is a sum over the samples of a batch they are those of each sample.

    `shapes` are sizes of tensors as they are in a run, None where they differ between runs (the batch). They are
    needed for strided windows, slices and the like, and make the emitted graph faster everywhere.

    Exposing: what the graph gave before stays bit-equal. Only what the wanted gradients need is emitted, the
    graph's own values are used again, and nothing is computed twice.

    Raises ModelError for an unknown tensor, an opset below 13, and an operator that no gradient can be found
    through, by what it is and what needed it; the graph is then as it was.
    """

    loss: str
    tensors: tuple[str, ...]
    shapes: Shapes = field(default_factory=dict)

    def __call__(self, graph: gs.Graph) -> bool:
        wanted = self._wanted(graph)
        if not wanted:
            return False
        known = graph.tensors()
        path = _path(graph, known[self.loss], {name: known[name] for name in wanted})
        if self.loss not in path:
            _LOGGER.debug("%s depends on none of %s", self.loss, wanted)
            return False
        _check_rules(graph, path, self.loss)
        before = len(graph.nodes)
        emit = Emitter(builders(graph)[0], self.shapes, _float_types(graph))
        try:
            shapes = {name: _shape(emit, known[name]) for name in wanted if name in path}
            gradients = _backward(emit, known[self.loss], path)
        except ModelError:
            remove(graph, graph.nodes[before:])
            raise
        for name in [name for name in shapes if name in gradients]:
            _expose(graph, name, gradients[name], shapes[name])
        graph.toposort()
        return True

    def _wanted(self, graph: gs.Graph) -> list[str]:
        """The tensors whose gradients the graph does not have yet."""
        known, present = graph.tensors(), {output.name for output in graph.outputs}
        missing = [name for name in (self.loss, *self.tensors) if name not in known]
        if missing:
            raise ModelError(
                f"the graph has no tensor {missing[0]!r} to differentiate; take one of its tensors"
            )
        wanted = [name for name in self.tensors if gradient_name(name) not in present]
        if wanted and graph.opset < _LOWEST_OPSET:
            raise ModelError(
                f"gradients need opset {_LOWEST_OPSET}, the graph is of {graph.opset}; raise it first"
            )
        return wanted


def gradient_name(tensor: str) -> str:
    """The name of the graph output that holds the gradient with respect to a tensor."""
    return f"{tensor}/gradient"


Path = Mapping[str, str]  # tensors that lie between wanted ones and the loss -> a wanted one each comes from


def _path(graph: gs.Graph, loss: gs.Tensor, wanted: Mapping[str, gs.Tensor]) -> Path:
    """The tensors that a gradient must be found for: those made from wanted ones and needed for the loss.

    Integers are none of them but for the codes of QuantizeLinear, which are taken for real numbers wherever they are
    moved.
    """
    needed = {loss.name}
    for node in reversed(graph.nodes):
        if any(tensor.name in needed for tensor in node.outputs):
            needed.update(_reads(node))
    path = {name: name for name in wanted if name in needed}
    codes: dict[str, Any] = {}  # and their types
    for node in graph.nodes:
        reads = _reads(node)
        sources = [path[name] for name in reads if name in path]
        if not sources:
            continue
        types = [codes[name] for name in reads if name in codes]
        for tensor in node.outputs:
            if tensor.name not in needed:
                continue
            retyped = node.op == "Cast" and not _may_be_float(tensor)  # no other integers are on the path
            if node.op == "QuantizeLinear" or tensor.dtype in types or retyped:
                codes[tensor.name] = tensor.dtype
            elif not _may_be_float(tensor):
                continue
            path.setdefault(tensor.name, sources[0])
    return path


def _may_be_float(tensor: gs.Tensor) -> bool:
    """False where a tensor is known to hold no floats: small changes leave it as it is."""
    dtype = _dtype(tensor)
    return dtype is None or dtype.kind == "f"


def _dtype(tensor: gs.Tensor) -> np.dtype[Any] | None:
    """The type that the graph says, None where it says none, or one that NumPy does not have."""
    return None if tensor.dtype is None or isinstance(tensor.dtype, int) else np.dtype(tensor.dtype)


def _reads(node: gs.Node) -> list[str]:
    """The tensors that a gradient may go back to from a node: its inputs, and what its bodies capture."""
    inputs = [t.name for i, t in enumerate(node.inputs) if t.name and not is_parameter(node, i)]
    return inputs + _captured(node)


def _captured(node: gs.Node) -> list[str]:
    """What control flow reads by name: every tensor in its bodies, as names are unique across them."""
    bodies = [body for value in node.attrs.values() if isinstance(value, gs.Graph) for body in graphs(value)]
    return [t.name for body in bodies for t in (*body.tensors().values(), *body.outputs)]


def _steps(graph: gs.Graph, path: Path) -> list[tuple[gs.Node, int]]:
    """Nodes and inputs whose gradients are to be found, the last node first."""
    return [
        (node, index)
        for node in reversed(graph.nodes)
        if any(tensor.name in path for tensor in node.outputs)
        for index, tensor in enumerate(node.inputs)
        if tensor.name in path and not is_parameter(node, index)
    ]


def _check_rules(graph: gs.Graph, path: Path, loss: str) -> None:
    """Raise ModelError for the first node without a rule."""
    for node in graph.nodes:
        captured = next((name for name in _captured(node) if name in path), None)
        if captured is not None and any(tensor.name in path for tensor in node.outputs):
            raise ModelError(
                f"there is no gradient rule for {captured!r} inside {node.op} {label(node)!r}, which lies between "
                f"{path[captured]!r} and {loss!r}; take a --method without gradients (measured)"
            )
    for node, index in _steps(graph, path):
        if find_rule(node, index) is None:
            raise ModelError(
                f"there is no gradient rule for input {index} of {node.op} {label(node)!r}, which lies between "
                f"{path[node.inputs[index].name]!r} and {loss!r}; take a --method "
                "without gradients (measured), or add a rule"
            )


def _shape(emit: Emitter, tensor: gs.Tensor) -> Sizes:
    try:
        return emit.shape(tensor)
    except NoMatch as reason:
        raise ModelError(f"the gradient of {tensor.name!r} cannot be a graph output: {reason}") from reason


def _backward(emit: Emitter, loss: gs.Tensor, path: Path) -> dict[str, gs.Tensor]:
    """The gradients of the tensors on the path, by name."""
    parts: dict[str, list[gs.Tensor]] = defaultdict(list)
    parts[loss.name].append(emit.cast_like(emit.constant(np.ones((), np.float32)), loss))

    def total(name: str) -> gs.Tensor | None:
        """The sum of what came back from all readers of a tensor, None where nothing did."""
        return reduce(partial(emit, "Add"), parts[name]) if parts.get(name) else None

    for node, index in _steps(emit.builder.graph, path):
        gradients = tuple(total(tensor.name) for tensor in node.outputs)
        if all(gradient is None for gradient in gradients):
            continue
        rule = find_rule(node, index)
        try:
            found = rule(Step(emit, node, gradients, index)) if rule else None
        except NoMatch as reason:
            raise ModelError(
                f"the gradient of {node.op} {label(node)!r}, which {path[node.inputs[index].name]!r} needs, cannot "
                f"be emitted: {reason}"
            ) from reason
        if found is not None:
            parts[node.inputs[index].name].append(found)
    return {name: gradient for name in path if (gradient := total(name)) is not None}


def _float_types(graph: gs.Graph) -> dict[str, np.dtype[Any]]:
    """The types of tensors: as the graph says, else as its nodes make them of their first float operand."""
    types = {tensor.name: _dtype(tensor) for tensor in graph.tensors().values()}
    known = {name: dtype for name, dtype in types.items() if dtype is not None}
    for node in graph.nodes:
        made = _made_type(node, known)
        if made is not None and node.outputs:
            known.setdefault(node.outputs[0].name, made)
            if node.op == "Split":
                known.update((t.name, made) for t in node.outputs if t.name not in known)
    return known


def _made_type(node: gs.Node, known: Mapping[str, np.dtype[Any]]) -> np.dtype[Any] | None:
    if node.op == "Cast":
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]))
    floats = (known[t.name] for t in node.inputs if t.name in known and known[t.name].kind == "f")
    return next(floats, None)


def _expose(graph: gs.Graph, name: str, gradient: gs.Tensor, shape: Sequence[int | None]) -> None:
    """The gradient as a graph output under its own name."""
    output = gradient_name(name)
    is_taken = is_constant(gradient) or any(gradient is other for other in graph.outputs)
    if is_taken:  # by another tensor with the same gradient
        copy = gs.Variable(output, gradient.dtype)
        graph.nodes.append(gs.Node("Identity", name=output, inputs=[gradient], outputs=[copy]))
        gradient = copy
    gradient.name, gradient.shape = output, list(shape)
    graph.outputs.append(gradient)
