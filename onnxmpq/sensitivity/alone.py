"""Changes judged one by one, each alone in the float network: one forward up to a layer, and from there one a change."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from onnxmpq.metrics.metric import Sums
from onnxmpq.sensitivity.chain import Chain, State, Step
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.layer import Layer


def losses_alone(
    probe: Probe, layers: Sequence[Layer], changes: Callable[[Step], Iterable[State]]
) -> dict[tuple[str, int], float]:
    """The loss, in the metric's own units, of each layer's changes, by layer and place among them.

    `changes` are what a layer's constants, and its inputs, are changed to, on one batch: as many on each.
    """
    chain = Chain(probe.runtime, probe.model, layers, probe.traced)
    terms = probe.metric.terms
    distance: defaultdict[tuple[str, int], Sums] = defaultdict(lambda: np.zeros(terms))
    weight: Sums = np.zeros(terms)
    total = math.ceil(probe.data.count / probe.batch_size) * len(layers)
    done = 0
    for batch in probe.data.batches(probe.batch_size):
        reference = chain.outputs(batch.feeds)
        weight += probe.metric.weight(reference)
        for step in chain.steps(batch.feeds):
            for place, changed in enumerate(changes(step)):
                outputs = step.outputs(changed)
                distance[step.layer.name, place] += probe.metric.distance(reference, outputs)
            done += 1
            probe.progress(done, total)
    return {key: probe.metric.loss(sums, weight) for key, sums in distance.items()}
