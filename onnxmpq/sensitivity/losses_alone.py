"""The losses of changes that are each made alone in the float network: one forward up to a layer, and from there one a change.

The work is cut into batches, and into runs of layers where more workers than batches are there. What a batch comes to is added
up in the order of the batches, and each runs on one thread: losses do not depend on who measured them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock

import numpy as np
import onnx

from onnxmpq.metrics.metric import Metric, Own, Sums
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.workers import Here, Opened, Workers, opened
from onnxmpq.sensitivity.chain import Chain, State, Step
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

Changes = Callable[[Step], Iterable[State]]
Key = tuple[str, int]  # a layer, and the place of one of its changes

_BATCHES = 8  # at least, where there are so many samples: as many cores are put to use


@dataclass(frozen=True, slots=True)
class Share:
    """The samples of a batch, and the layers [first, last) whose changes they are run for."""

    feeds: State
    first: int
    last: int
    number: int  # of the batch

    def __str__(self) -> str:
        return f"layers {self.first + 1} to {self.last}, batch {self.number + 1}"


@dataclass(frozen=True)
class BatchLosses(Opened):
    """Measures shares: (weight [terms], of the first layers' share alone; distance [terms] by layer and change)."""

    runtime: Runtime
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    traced: dict[str, Traced]
    metric: Metric
    changes: Changes

    @opened
    def chain(self) -> Chain:
        return Chain(self.runtime.on_one_thread(), self.model, self.layers, self.traced)

    def __call__(self, share: Share) -> tuple[Sums, dict[Key, Sums]]:
        reference = self.metric.judged(self.chain.outputs(share.feeds), share.feeds)
        found: dict[Key, Sums] = {}
        wanted = {layer.name for layer in self.layers[share.first : share.last]}
        for step in self.chain.steps(share.feeds, wanted):
            for place, changed in enumerate(self.changes(step)):
                found[step.layer.name, place] = self.metric.distance(reference, step.outputs(changed))
        weight = self.metric.weight(reference) if share.first == 0 else np.zeros(self.metric.terms)
        return weight, found


def losses_alone(probe: Probe, layers: Sequence[Layer], changes: Changes) -> dict[Key, float]:
    """The loss, in the metric's own units, of each layer's changes, by layer and place among them.

    `changes` are what a layer's constants, and its inputs, are changed to, on one batch: as many on each. It is sent to workers.
    """
    probe, workers = _suited(probe)
    work = BatchLosses(probe.runtime, probe.model, tuple(layers), dict(probe.traced), probe.metric, changes)
    size = probe.data.source.step or max(1, min(probe.batch_size, probe.data.count // _BATCHES))
    batches = math.ceil(probe.data.count / size)
    runs = _runs(len(layers), max(1, workers.count // max(batches, 1)))
    weight: Sums = np.zeros(probe.metric.terms)
    distance: defaultdict[Key, Sums] = defaultdict(lambda: np.zeros(probe.metric.terms))
    with closing(workers.map(work, _shares(probe, size, runs))) as found:
        for done, (own, parts) in enumerate(found, 1):
            weight += own
            for key, sums in parts.items():
                distance[key] += sums
            probe.progress(done, batches * len(runs))
    return {key: probe.metric.loss(sums, weight) for key, sums in distance.items()}


def _suited(probe: Probe) -> tuple[Probe, Workers]:
    """The probe, and who works for it: here the user's metric is called by one thread at a time, and a GPU has one user."""
    if not isinstance(probe.workers, Here):
        return probe, probe.workers
    own = probe.metric.own
    alone = probe if own is None else replace(probe, metric=replace(probe.metric, own=_one_at_a_time(own)))
    return alone, probe.workers if probe.runtime.provider == "cpu" else Here(1)


def _one_at_a_time(own: Own) -> Own:
    lock = Lock()

    def locked(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
        with lock:
            return own(reference, outputs)

    return locked


def _shares(probe: Probe, size: int, runs: Sequence[tuple[int, int]]) -> Iterator[Share]:
    for number, batch in enumerate(probe.data.batches(size)):
        for first, last in runs:
            yield Share(batch.feeds, first, last, number)


def _runs(layers: int, wanted: int) -> list[tuple[int, int]]:
    """[first, last) of so many runs of layers, about equally long; a later layer's changes cost less."""
    edges = np.unique(np.linspace(0, layers, min(wanted, max(layers, 1)) + 1).round().astype(int))
    return list(pairwise(map(int, edges)))
