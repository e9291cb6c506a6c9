"""Compare a model with its reference on data: top-1, agreement, KL or SQNR, streamed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.errors import DataError
from onnxmpq.metrics.decibels import decibels
from onnxmpq.metrics.metric import Metric, Sums, classes, classifier_output, probabilities
from onnxmpq.metrics.output_channels import FLOOR
from onnxmpq.metrics.output_kinds import Seen, is_float
from onnxmpq.metrics.reference_outputs import Expected, Outputs
from onnxmpq.metrics.tally import EqualTally, FloatTally
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import OutputScore, Score

_LOOKED_AT = 500  # samples at most, where all would tell no more
_GLANCED_AT = 16
_GLANCED_BYTES = 64 << 20
_BEYOND, _FAR_BEYOND = 3, 9  # standard deviations: no more samples need to be looked at
_ENOUGH_LABELS = 20  # fewer say nothing about chance


class _Tally:
    """Running sums of one model against the reference."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._outputs: dict[str, FloatTally | EqualTally] = {
            name: FloatTally(kind, metric.channels.get(name) or _whole(kind))
            for name, kind in metric.kinds.items()
        }
        self._hits = self._rows = 0
        self._own: Sums = np.zeros(2)

    def add(self, reference: Outputs, outputs: Outputs, labels: Array | None) -> None:
        for name, values in reference.items():
            self._outputs.setdefault(name, EqualTally()).add(values, outputs[name])
        if self._metric.own is not None:
            self._own += [self._metric.distance(reference, outputs)[0], self._metric.weight(reference)[0]]
        classified = classifier_output(self._metric)
        if classified is not None and labels is not None:
            self._rows += len(labels)
            same = outputs[classified].shape == reference[classified].shape  # else no class is where it was
            self._hits += int((classes(outputs[classified]) == labels).sum()) if same else 0

    def score(self, samples: int) -> Score:
        found = {name: tally.score() for name, tally in self._outputs.items()}
        floats = [score for score in found.values() if score.sqnr is not None]
        classified = classifier_output(self._metric)
        equal = [score.agreement for score in found.values() if score.agreement is not None]
        agreement = found[classified].agreement if classified is not None else None
        return Score(
            samples,
            top1=self._hits / self._rows if self._rows else None,
            agreement=agreement if floats else float(np.mean(equal)) if equal else None,
            kl=found[classified].kl if classified is not None else None,
            sqnr=_mean_decibels(floats) if floats else None,
            own=None if self._metric.own is None else float(self._own[0] / max(self._own[1], 1)),
            outputs=found,
        )


def _whole(kind: OutputKind) -> Channels:
    """One group; what lies in 0..1 may be silent."""
    return Channels((FLOOR,)) if kind is OutputKind.INDEPENDENT else Channels()


def compare(
    reference: Session, model: Session, data: Dataset, metric: Metric, batch_size: int
) -> tuple[Score, Score]:
    """Scores of the reference (against itself) and of the model, in one pass over the data."""
    tallies = _Tally(metric), _Tally(metric)
    for batch in data.batches(batch_size):
        expected = metric.judged(reference.run(batch.feeds), batch.feeds)
        got = expected if model is reference else metric.judged(model.run(batch.feeds), batch.feeds)
        tallies[0].add(expected, expected, batch.labels)
        tallies[1].add(expected, got, batch.labels)
    return tallies[0].score(data.count), tallies[1].score(data.count)


def _mean_decibels(scores: Sequence[OutputScore]) -> float:
    """In dB the mean over the outputs of noise relative to the signal."""
    noises = [10 ** (-score.sqnr / 10) for score in scores if score.sqnr is not None]
    return decibels(float(np.mean(noises)), 1.0)


def glance(session: Session, data: Dataset, batch_size: int, seed: int) -> dict[str, list[Any]]:
    """What a model gives for a few samples, run by run: what its outputs hold is read off it."""
    found: dict[str, list[Any]] = {name: [] for name in session.outputs}
    held = 0
    for batch in data.some(_GLANCED_AT, seed).batches(batch_size):
        outputs = session.run(batch.feeds)
        for name, value in outputs.items():
            found[name].append(value)
        held += sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))
        if held > _GLANCED_BYTES:
            break
    return found


def check_label_range(data: Dataset, shapes: Mapping[str, Sequence[int]], metric: Metric) -> None:
    """Raise DataError for a label that no class of the model can be; `shapes` are those of its outputs."""
    name = classifier_output(metric)
    if name is None or data.labels is None:
        return
    classes = shapes[name][1]
    if data.labels.max() >= classes:
        raise DataError(
            f"the labels of {data.source.name} go up to {data.labels.max()}, but output {name!r} has {classes} classes, "
            f"0 to {classes - 1}; save class indices in the model's own order, or no labels"
        )


def check_numbers(seen: Seen, description: str) -> None:
    """Raise DataError where no sample gets a number at some output of the fp32 model: anything would be equal to that."""
    floats = {name: values for name, values in seen.items() if is_float(values)}
    lost = [
        name
        for name, values in floats.items()
        if any(v.size for v in values) and not any(np.isfinite(v).any() for v in values)
    ]
    if lost:
        raise DataError(
            f"the fp32 model gives nothing but NaN or Inf at output {lost[0]!r} on {description}: its weights are "
            "damaged, or the data are not what it was trained on. Check them, or go on with --force"
        )


def check_labels(reference: Session, data: Dataset, metric: Metric, batch_size: int, seed: int) -> None:
    """Raise DataError where a labelled classifier does no better than guessing in full precision."""
    name = classifier_output(metric)
    if name is None or not data.has_labels or data.count < _ENOUGH_LABELS:
        return
    data = data.some(_LOOKED_AT, seed)
    hits = total = outcomes = 0
    # In a random order: files are often sorted by class, and a model that always gives one is right on the first of them.
    for batch in data.shuffled(batch_size, np.random.default_rng(seed)):
        values = reference.run(batch.feeds, [name])[name]
        outcomes = values.reshape(len(values), -1).shape[1]
        hits, total = hits + int((classes(values) == batch.labels).sum()), total + batch.count
        if total >= _ENOUGH_LABELS and is_beyond_chance(hits, total, outcomes, _FAR_BEYOND):
            return
    chance = 1 / outcomes
    if not is_beyond_chance(hits, total, outcomes, _BEYOND):
        raise DataError(
            f"the fp32 model's top-1 is {hits / total:.1%} on {data.description}, no better than chance "
            f"({chance:.1%}): preprocessing or label order is wrong, not the model. Check them, or go on with --force"
        )


def is_beyond_chance(hits: int, total: int, outcomes: int, deviations: float) -> bool:
    """True where more of the classes are right than guessing gives, by so many standard deviations."""
    chance = 1 / outcomes
    return hits / total > chance + deviations * math.sqrt(chance * (1 - chance) / total)


def sureness(reference: Session, data: Dataset, metric: Metric, batch_size: int, seed: int) -> float:
    """The mean probability of the class that a classifier takes, in [0, 1]: near 1 on what it was trained on."""
    name, data = classifier_output(metric), data.some(_LOOKED_AT, seed)
    assert name is not None
    total = rows = 0.0
    for batch in data.batches(batch_size):
        values = reference.run(batch.feeds, [name])[name]
        found = probabilities(values.reshape(len(values), -1), metric.kinds[name])
        total, rows = total + float(found.max(axis=1).sum()), rows + len(values)
    return total / rows


def loss_of_function(
    reference: Session, model: Session, data: Dataset, metric: Metric, batch_size: int
) -> float:
    """Top-1 points lost against the reference where there are labels, else the share of changed classes.

    One standard error is added, of the classes that changed and one more: samples that a plan was chosen by
    flatter it, and few of them prove little.
    """
    before, after = compare(reference, model, data, metric, batch_size)
    changed = 1.0 - (after.agreement or 0.0)
    has_labels = before.top1 is not None and after.top1 is not None
    lost = max(before.top1 - after.top1, 0.0) if has_labels else changed  # type: ignore[operator]
    return lost + math.sqrt(changed * data.count + 1) / data.count


def mean_loss(expected: Expected, model: Session, metric: Metric) -> float:
    """The metric's loss of a model over what is expected of it, in its own units."""
    distance, weight = np.zeros(metric.terms), np.zeros(metric.terms)
    for batch, outputs in expected.batches():
        weight = weight + metric.weight(outputs)
        distance = distance + metric.distance(outputs, model.run(batch.feeds))
    return metric.loss(distance, weight)
