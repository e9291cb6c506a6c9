"""Random tangents of the outputs' distributions, made of random signs in the graph: no other run has to come first.

Of a distribution p the vectors sqrt(p) lie on a sphere. A sum with random signs of an orthonormal basis of the plane
tangent to it is a vector v with E[v v^T] = 1 - sqrt(p) sqrt(p)^T. The basis is Helmert's, weighted by p: with classes in
falling order and P_k = p_1 + ... + p_k, the vector of class k > 1 is

    -sqrt(P_{k-1} / P_k)            at k,
    sqrt(p_i p_k / (P_{k-1} P_k))   at each i < k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.errors import ModelError
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.expose.emit_loss import TINY, log_probabilities, target_name
from onnxmpq.passes.node_builder import builders
from onnxmpq.values.output_kind import OutputKind


@dataclass(frozen=True, slots=True)
class EmitTangents:
    """Put a random tangent in the place of each output's target, whose graph input takes random signs from now on.

    `outputs` maps graph outputs to what they hold, no VALUES. The graph has their targets, those of
    `Loss.PROJECTION` (`EmitLoss`), and the gradients that are wanted already: none is to pass through a tangent.
    Signs are float [N, classes], in the output's type; v is linear in them, so they may come with a length.

    Raises ModelError for an output without a target. Changes what the graph gives.
    """

    outputs: Mapping[str, OutputKind]

    def __call__(self, graph: gs.Graph) -> bool:
        known = graph.tensors()
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        for name in self.outputs:
            if target_name(name) not in inputs:
                raise ModelError(f"output {name!r} has no target to be replaced; run emit-loss first")
        dtypes = {name: np.dtype(known[name].dtype) for name in self.outputs}
        emit = Emitter(builders(graph)[0], dtypes=dtypes)
        for name, kind in self.outputs.items():
            signs = inputs[target_name(name)]
            readers = list(signs.outputs)
            tangent = emit.cast_like(_tangent(emit, known[name], kind, signs), known[name])
            for node in readers:
                node.inputs = [tangent if tensor is signs else tensor for tensor in node.inputs]
        graph.toposort()
        return bool(self.outputs)


def _tangent(e: Emitter, output: gs.Tensor, kind: OutputKind, signs: gs.Tensor) -> gs.Tensor:
    """[N, outcomes], in float32: sums of probabilities want more than half precision."""
    single = onnx.TensorProto.FLOAT
    logs = e("Cast", log_probabilities(e, output, kind), to=single)
    p, drawn = e("Max", e("Exp", logs), TINY), e("Cast", signs, to=single)
    if kind is OutputKind.INDEPENDENT:
        return _of_pairs(e, p, drawn)
    q, order = e.pair("TopK", p, _outcomes(e, p), axis=1)  # in falling order, and which class each is of
    return e("ScatterElements", q, order, _of_falling(e, q, drawn), axis=1)


def _of_pairs(e: Emitter, p: gs.Tensor, signs: gs.Tensor) -> gs.Tensor:
    """Of [true ..., false ...], each pair a distribution of its own: nothing but the sign is left to chance."""
    root = e("Sqrt", p)
    count = _outcomes(e, signs)
    true = e("Slice", root, e.ints([0]), count, e.ints([1]))
    false = e("Slice", root, count, e.ints([np.iinfo(np.int64).max]), e.ints([1]))
    return e("Concat", e("Mul", signs, false), e("Neg", e("Mul", signs, true)), axis=1)


def _of_falling(e: Emitter, q: gs.Tensor, signs: gs.Tensor) -> gs.Tensor:
    """The tangents in falling order of the classes; the likeliest has no vector, and its sign no say."""
    axis = e.constant(np.array(1, np.int64))
    upto = e("CumSum", q, axis)
    before = e("Max", e("CumSum", q, axis, exclusive=1), TINY)  # zero of the first class only
    weights = e("Mul", signs, e("Sqrt", e("Div", q, e("Mul", before, upto))))
    behind = e("CumSum", weights, axis, exclusive=1, reverse=1)
    own = e("Mul", signs, e("Sqrt", e("Div", before, upto)))
    return e("Sub", e("Mul", e("Sqrt", q), behind), own)


def _outcomes(e: Emitter, tensor: gs.Tensor) -> gs.Tensor:
    """The size of the second axis, int64 [1]."""
    return e("Slice", e("Shape", tensor), e.ints([1]), e.ints([2]))
