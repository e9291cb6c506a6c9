"""Changes judged, each alone in a network that carries other changes already.

A sensitivity that is updated is measured with everything decided so far in place. The decisions are baked into the chain's sessions (made anew after each decision,
at a few per cent of the cost of what is then measured); a change runs only what comes behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmpq.data import Dataset
from onnxmpq.errors import DataError, OptionError
from onnxmpq.metrics.metric import Metric, Sums, classes, classifier_output, surprise
from onnxmpq.sensitivity.chain import Chain
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

Constants = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a changed network does: its `loss` in the probe's metric; with labels, its top-1 and cross-entropy in nats."""

    loss: float
    top1: float | None
    cross_entropy: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A layer's constants (its weight, and its bias if it has one of its own) with new values, by name."""

    layer: Layer
    constants: Constants


class Judge:
    """Evaluates changes on all of a probe's data, against the float network; `evaluations` counts them."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._float = probe.runtime.session(probe.model)
        self._classes = classifier_output(probe.metric) if probe.data.has_labels else None
        self.evaluations = 0

    def __call__(self, decided: Constants, changes: Sequence[Change]) -> list[Outcome]:
        """The outcome of each change made alone to the network that has the `decided` constants."""
        probe = self._probe
        layers = {change.layer.name: change.layer for change in changes}
        order = [layer for layer in probe.layers if layer.name in layers]
        chain = Chain(probe.runtime, _with_constants(probe.model, decided), order, probe.traced)
        distance = np.zeros((len(changes), probe.metric.terms))
        weight: Sums = np.zeros(probe.metric.terms)
        hits, entropy = np.zeros(len(changes)), np.zeros(len(changes))
        rows = {name: [i for i, c in enumerate(changes) if c.layer.name == name] for name in layers}
        for batch in probe.data.batches(probe.batch_size):
            reference = probe.metric.judged(self._float.run(batch.feeds), batch.feeds)
            weight += probe.metric.weight(reference)
            for step in chain.steps(batch.feeds):
                for row in rows[step.layer.name]:
                    outputs = step.outputs(dict(changes[row].constants))
                    distance[row] += probe.metric.distance(reference, outputs)
                    if self._classes is not None and batch.labels is not None:
                        values = outputs[self._classes]
                        hits[row] += (classes(values) == batch.labels).sum()
                        entropy[row] += surprise(
                            values, batch.labels, probe.metric.kinds[self._classes]
                        ).sum()
        self.evaluations += len(changes)
        losses = [probe.metric.loss(d, weight) for d in distance]
        if self._classes is None:
            return [Outcome(loss, None, None) for loss in losses]
        means = (hits / probe.data.count, entropy / probe.data.count)
        return [Outcome(loss, float(t), float(e)) for loss, t, e in zip(losses, *means, strict=True)]


def require_labels(metric: Metric, data: Dataset, method: str, remedy: str) -> None:
    """Raise unless the method can measure top-1 on the data, saying what to do instead."""
    if classifier_output(metric) is None:
        raise OptionError(f"method {method} judges by top-1, and this model is no classifier; {remedy}")
    if not data.has_labels:
        raise DataError(
            f"method {method} judges by top-1, and {data.description} have no labels; "
            f"give --data with an array 'labels' of class indices, or {remedy}"
        )


def _with_constants(model: onnx.ModelProto, constants: Constants) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for initializer in changed.graph.initializer:
        if initializer.name in constants:
            initializer.CopyFrom(numpy_helper.from_array(constants[initializer.name], initializer.name))
    return changed
