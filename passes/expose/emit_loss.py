"""A scalar loss of the graph's outputs as one more graph output, summed over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.errors import ModelError
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.node_builder import builders
from onnxmpq.values.output_kind import OutputKind

LOSS = "onnxmpq/loss"
TINY = 1e-12  # floor of a probability, as in onnxmpq.metrics.metric


class Loss(StrEnum):
    """What is summed over samples and outputs; the target is an additional graph input for each output.

    KL              KL(target || output) in nats; the target holds what the output holds
    CROSS_ENTROPY   -log of the probability of the class; the target is int64 [N]
    SQUARED_ERROR   sum of (output - target)^2
    PROJECTION      <target, embedding of the output>, the target float [N, outcomes], or as the output for values.
                    The embedding is 2 sqrt(p) for probabilities p, which takes the Fisher metric to the Euclidean
                    one (twice the KL of a small change is its squared length), and the identity for values
    """

    KL = "kl"
    CROSS_ENTROPY = "cross-entropy"
    SQUARED_ERROR = "squared-error"
    PROJECTION = "projection"


@dataclass(frozen=True, slots=True)
class EmitLoss:
    """Add the scalar output `LOSS`, and an input `target_name(output)` for each of `outputs`.

    `outputs` maps graph outputs to what they hold; distributions are [N, classes, 1...]. Outputs that are
    probabilities already are not normalised again. The outcomes of independent probabilities are [N, 2 classes]:
    all that are true, then all that are false.

    Raises ModelError for an output that the graph does not have, and for values where the loss wants
    probabilities. Exposing, but for the inputs: what the graph gave before stays bit-equal.
    """

    loss: Loss
    outputs: Mapping[str, OutputKind]

    def __call__(self, graph: gs.Graph) -> bool:
        present = {output.name: output for output in graph.outputs}
        if LOSS in present or not self.outputs:
            return False
        for name, kind in self.outputs.items():
            if name not in present:
                raise ModelError(f"the graph has no output {name!r}; it has {', '.join(present)}")
            if not kind.is_distribution and self.loss in {Loss.KL, Loss.CROSS_ENTROPY}:
                raise ModelError(f"{self.loss} is of probabilities, and output {name!r} holds values")
        dtypes = {o.name: np.dtype(o.dtype) for o in graph.outputs if isinstance(o.dtype, np.dtype | type)}
        emit = Emitter(builders(graph)[0], dtypes=dtypes)
        terms = []
        for name, kind in self.outputs.items():
            target = self._target(present[name], kind)
            graph.inputs.append(target)
            terms.append(_TERMS[self.loss](emit, present[name], kind, target))
        total = emit("Identity", reduce(lambda a, b: emit("Add", a, b), terms))
        total.name, total.shape = LOSS, ()
        graph.outputs.append(total)
        graph.toposort()
        return True

    def _target(self, output: gs.Variable, kind: OutputKind) -> gs.Variable:
        name = target_name(output.name)
        if self.loss is Loss.CROSS_ENTROPY:
            return gs.Variable(name, np.int64, [None])
        if self.loss is Loss.PROJECTION and kind.is_distribution:
            return gs.Variable(name, output.dtype, [None, None])
        # Exporters declare sizes of outputs that are those of their own run only.
        free = None if output.shape is None else [None] * len(output.shape)
        return gs.Variable(name, output.dtype, free)


def target_name(output: str) -> str:
    """The name of the graph input that an output is compared with."""
    return f"{output}/target"


def log_probabilities(e: Emitter, tensor: gs.Tensor, kind: OutputKind) -> gs.Tensor:
    """[N, outcomes] of what an output of this kind holds."""
    flat = e("Flatten", tensor, axis=1)
    if kind is OutputKind.LOGITS:
        return e("LogSoftmax", flat, axis=-1)
    if kind is OutputKind.LOG_PROBABILITIES:
        return flat
    if kind is OutputKind.INDEPENDENT:
        flat = e("Concat", flat, e("Sub", 1.0, flat), axis=1)
    floor = e.constant(np.array(TINY, flat.dtype))
    return e("Log", e("Clip", flat, floor))


Term = Callable[[Emitter, gs.Tensor, OutputKind, gs.Tensor], gs.Tensor]


def _all(e: Emitter, tensor: gs.Tensor) -> gs.Tensor:
    return e("ReduceSum", tensor, keepdims=0)


def _divergence(e: Emitter, output: gs.Tensor, kind: OutputKind, target: gs.Tensor) -> gs.Tensor:
    reference = log_probabilities(e, target, kind)
    apart = e("Sub", reference, log_probabilities(e, output, kind))
    return _all(e, e("Mul", e("Exp", reference), apart))


def _cross_entropy(e: Emitter, output: gs.Tensor, kind: OutputKind, target: gs.Tensor) -> gs.Tensor:
    logs = log_probabilities(e, output, kind)
    classes = e("Slice", e("Shape", e("Flatten", output, axis=1)), e.ints([1]), e.ints([2]))
    truth = e("OneHot", target, classes, e.constant(np.array([0, 1], np.float32)), axis=-1)
    truth = e.cast_like(truth, logs)  # ONNX Runtime knows few types of OneHot
    if kind is OutputKind.INDEPENDENT:
        truth = e("Concat", truth, e("Sub", 1.0, truth), axis=1)
    return e("Neg", _all(e, e("Mul", truth, logs)))


def _squared_error(e: Emitter, output: gs.Tensor, _kind: OutputKind, target: gs.Tensor) -> gs.Tensor:
    apart = e("Sub", output, target)
    return _all(e, e("Mul", apart, apart))


def _projection(e: Emitter, output: gs.Tensor, kind: OutputKind, target: gs.Tensor) -> gs.Tensor:
    embedded = output
    if kind.is_distribution:  # 2 sqrt(p) by way of logarithms: p may underflow
        embedded = e("Mul", e("Exp", e("Mul", log_probabilities(e, output, kind), 0.5)), 2.0)
    return _all(e, e("Mul", embedded, target))


_TERMS: Mapping[Loss, Term] = {
    Loss.KL: _divergence,
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.SQUARED_ERROR: _squared_error,
    Loss.PROJECTION: _projection,
}
