"""Directional derivatives of a loss along changes of weights, sample by sample, from gradients of layer outputs.

A layer is linear in its weight and bias, so a change D of them changes its output Y by the layer applied to D, and
the loss of sample n by <dL/dY_n, layer(X_n, D)> to first order: no gradient of a weight is needed.

Each change costs as much as the layer. Of a Conv with many positions and several changes it is cheaper to sum over
positions first: with the patches U_n [inputs x kernel, positions] that the layer's window sees,

    <dL/dY_n, layer(X_n, D)> = <U_n (dL/dY_n)^T, D>

is one product for all changes, the gradient of the weight for one sample, and a small one for each change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.errors import ModelError
from onnxmpq.operators import OPERATORS, weight_places
from onnxmpq.passes.emitter import Emitter, Shapes
from onnxmpq.passes.expose.emit_gradients import gradient_name
from onnxmpq.passes.matching import optional_input
from onnxmpq.passes.node_builder import builders
from onnxmpq.values.arrays import Array

Change = Mapping[str, Array]  # by name, what is added to a weight, and to a bias where that changes too

_PAYS = 3  # changes from which on summing over positions first is faster
_ROOM = 4  # times the memory of the moved outputs that it may take


@dataclass(frozen=True, slots=True)
class EmitDirectional:
    """Add `directional_name(weight)`, [N, changes], for each weight of `directions`.

    `directions` maps weights of the main graph to changes of them. The graph must have the gradients of the
    outputs of the nodes that read them (`EmitGradients`, for `layer_outputs`). With `per_sample` the first axis of
    every layer's output counts samples, and `shapes` hold the sizes of the others; without, N is 1.

    With `fed` the changes of a weight are no constants but the graph input `changes_name(weight)`, where they are of no
    other use than a product: `rows_of` gives it. To build and load the graph then takes less time.

    Raises ModelError for a weight that no layer of the main graph reads. Exposing, but for the inputs.
    """

    directions: Mapping[str, Sequence[Change]]
    shapes: Shapes
    per_sample: bool = True
    fed: bool = False

    def __call__(self, graph: gs.Graph) -> bool:
        present = {output.name for output in graph.outputs}
        wanted = [weight for weight in self.directions if directional_name(weight) not in present]
        known = graph.tensors()
        nodes = {weight: _differentiated(graph, known, weight) for weight in wanted}
        emit = Emitter(builders(graph)[0], self.shapes)
        for weight in wanted:
            parts = [
                self._of_node(emit, node, weight, known[gradient_name(node.outputs[0].name)])
                for node in nodes[weight]
            ]
            total = emit("Identity", reduce(lambda a, b: emit("Add", a, b), parts))
            total.name, total.shape = directional_name(weight), [None, len(self.directions[weight])]
            graph.outputs.append(total)
        if wanted:
            graph.toposort()
        return bool(wanted)

    def _of_node(self, e: Emitter, node: gs.Node, weight: str, gradient: gs.Tensor) -> gs.Tensor:
        """[N, changes] of one node."""
        changes = self.directions[weight]
        if self.per_sample and _sums_first(e, node, weight, len(changes)):
            return _by_gradient(e, node, changes, gradient, fed=self.fed)
        return self._by_outputs(e, node, changes, gradient)

    def _by_outputs(
        self, e: Emitter, node: gs.Node, changes: Sequence[Change], gradient: gs.Tensor
    ) -> gs.Tensor:
        """From how far each change moves the output."""
        if _has_patches(node):  # one wide Conv is faster than many
            joined = {name: np.concatenate([c[name] for c in changes]) for name in changes[0]}
            moved = [_moved(e, node, joined)]
        else:
            moved = [_moved(e, node, change) for change in changes]
        samples, values = self._sizes(e, node.outputs[0])
        rows = [e("Reshape", m, e.ints([samples, len(changes) // len(moved), values])) for m in moved]
        stacked = rows[0] if len(rows) == 1 else e("Concat", *rows, axis=1)
        # A Reshape to a column, and no Transpose: that one the runtime fuses into a product ten times as slow.
        column = e("Reshape", gradient, e.ints([samples, values, 1]))
        return e("Squeeze", e("MatMul", stacked, column), e.ints([2]))

    def _sizes(self, e: Emitter, output: gs.Tensor) -> tuple[int, int]:
        """How many samples, and values of each: one of the two is left to the run."""
        if not self.per_sample:
            return 1, -1
        return -1, math.prod(e.sizes(output, range(1, e.rank(output))))


def directional_name(weight: str) -> str:
    """The name of the graph output that holds the derivatives along the changes of a weight."""
    return f"{weight}/directional"


def changes_name(weight: str) -> str:
    """The name of the graph input that takes the changes of a weight (`fed`)."""
    return f"{weight}/changes"


def rows_of(changes: Sequence[Change], weight: str) -> Array:
    """[changes, inputs x kernel x outputs]: each change as the gradient of a weight for one sample is laid out."""
    found = [change[weight] for change in changes]
    return np.stack([values.reshape(len(values), -1).T.ravel() for values in found])


def readers(graph: gs.Graph, weight: str) -> list[gs.Node]:
    """The layers of the main graph that a weight is in. Raises ModelError where there is none, or one not linear in it."""
    found = [n for n in graph.nodes if weight in [n.inputs[i].name for i in weight_places(n)]]
    recurrent = [n.op for n in found if OPERATORS[n.op].use == "recurrence"]
    if recurrent:
        raise ModelError(
            f"the weight {weight!r} is one of {recurrent[0]}, which is not linear in it: its derivatives are not known; fix "
            f"its width (--keep 'op:{recurrent[0]}=8'), or use --method measured"
        )
    if not found:
        raise ModelError(
            f"no layer of the main graph reads the weight {weight!r}: gradients do not reach into control-flow "
            "bodies; use --method measured"
        )
    return found


def _differentiated(graph: gs.Graph, known: Mapping[str, gs.Tensor], weight: str) -> list[gs.Node]:
    """The layers of a weight whose outputs have gradients: not the nodes of the backward graph that read it too."""
    found = [node for node in readers(graph, weight) if gradient_name(node.outputs[0].name) in known]
    if not found:
        raise ModelError(
            f"no layer of the weight {weight!r} has a gradient of its output; run emit-gradients first"
        )
    return found


def layer_outputs(graph: gs.Graph, weights: Sequence[str]) -> tuple[str, ...]:
    """The outputs of all layers that read one of these weights. Raises ModelError as `readers` does."""
    return tuple(dict.fromkeys(node.outputs[0].name for weight in weights for node in readers(graph, weight)))


def _moved(e: Emitter, node: gs.Node, change: Change) -> gs.Tensor:
    """How far a change moves the node's output: the node applied to it, a bias only where that changes."""
    bias = _bias(node)
    others = [tensor for tensor in node.inputs if tensor is not bias and not tensor.is_empty()]
    if OPERATORS[node.op].use == "sum":  # data that are added do not move
        others = [t if t.name in change else e("Mul", t, 0.0) for t in others]
    operands = [e.constant(change[t.name]) if t.name in change else t for t in others]
    if bias is not None and bias.name in change and np.any(change[bias.name]):
        operands.append(e.constant(change[bias.name]))
    return e(node.op, *operands, **node.attrs)


def _bias(node: gs.Node) -> gs.Tensor | None:
    slot = OPERATORS[node.op].bias
    return None if slot is None else optional_input(node, slot.place)


def _has_patches(node: gs.Node) -> bool:
    """True for a layer of one group that gives all taps of its window at once."""
    return OPERATORS[node.op].patches is not None and node.attrs.get("group", 1) == 1


def _sums_first(e: Emitter, node: gs.Node, weight: str, changes: int) -> bool:
    """Whether the sum over positions comes first: it pays, and a sample's patches and gradient take little room."""
    if not _has_patches(node) or node.inputs[1].name != weight:
        return False
    outputs, positions = node.inputs[1].shape[0], math.prod(e.spatial(node.outputs[0]))
    held = math.prod(node.inputs[1].shape[1:]) * (positions + outputs)
    return changes >= _PAYS and held <= _ROOM * changes * outputs * positions


def _by_gradient(
    e: Emitter, node: gs.Node, changes: Sequence[Change], gradient: gs.Tensor, *, fed: bool
) -> gs.Tensor:
    """[N, changes] of a layer that has patches, from the gradient of its weight for each sample."""
    weight, patches_of = node.inputs[1], OPERATORS[node.op].patches
    assert patches_of is not None
    outputs, patch = weight.shape[0], math.prod(weight.shape[1:])
    positions = math.prod(e.spatial(node.outputs[0]))
    patches = e("Reshape", patches_of(e, node, changes[0][weight.name].dtype), e.ints([-1, patch, positions]))
    rows = e("Reshape", gradient, e.ints([-1, outputs, positions]))
    of_weight = e("MatMul", patches, e("Transpose", rows, perm=[0, 2, 1]))  # [N, patch, outputs]
    flat = e("Reshape", of_weight, e.ints([-1, patch * outputs]))
    along = rows_of(changes, weight.name)
    found = e("Gemm", flat, _input(e, weight.name, along) if fed else e.constant(along), transB=1)
    bias = _bias(node)
    if bias is None or not any(bias.name in change and np.any(change[bias.name]) for change in changes):
        return found
    of_all = e.constant(np.stack([change[bias.name] for change in changes], 1))
    of_bias = e("MatMul", e.sum(rows, [2], keep=False), of_all)
    return e("Add", found, of_bias)


def _input(e: Emitter, weight: str, values: Array) -> gs.Tensor:
    """The graph input for the changes of a weight, of which all its readers make use."""
    graph, name = e.builder.graph, changes_name(weight)
    known = [tensor for tensor in graph.inputs if tensor.name == name]
    if not known:
        known = [gs.Variable(name, values.dtype, list(values.shape))]
        graph.inputs.extend(known)
    return known[0]
