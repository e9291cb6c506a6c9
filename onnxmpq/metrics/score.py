"""Compare a model with its reference on data: top-1, agreement, KL or SQNR, streamed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.errors import DataError
from onnxmpq.metrics.metric import Metric, Sums, classes, classifier_output, probabilities
from onnxmpq.metrics.reference_outputs import Expected, Outputs
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.score import Score

_LOOKED_AT = 500  # samples at most, where all would tell no more
_GLANCED_AT = 16
_ENOUGH_LABELS = 20  # fewer say nothing about chance


class _Tally:
    """Running sums of one model against the reference."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._noise = Metric("nse", metric.kinds)
        self._hits = 0
        self._equal = 0.0
        outputs = len(metric.kinds)
        self._kl: Sums = np.zeros(outputs)
        self._error: Sums = np.zeros(outputs)
        self._energy: Sums = np.zeros(outputs)

    def add(self, reference: Outputs, outputs: Outputs, labels: Array | None, samples: int) -> None:
        if not self._metric.kinds:
            self._equal += _equal_share(reference, outputs) * samples
            return
        self._error += self._noise.distance(reference, outputs)
        self._energy += self._noise.weight(reference)
        name = classifier_output(self._metric)
        if name is None:
            return
        self._kl += Metric("kl", self._metric.kinds).distance(reference, outputs)
        if outputs[name].shape != reference[name].shape:
            return  # no sample's class is where it was
        chosen = classes(outputs[name])
        self._equal += int((chosen == classes(reference[name])).sum())
        if labels is not None:
            self._hits += int((chosen == labels).sum())

    def score(self, samples: int, *, labelled: bool) -> Score:
        is_classifier = classifier_output(self._metric) is not None
        if not self._metric.kinds:
            return Score(samples, agreement=self._equal / samples)
        return Score(
            samples,
            self._hits / samples if is_classifier and labelled else None,
            self._equal / samples if is_classifier else None,
            float(self._kl.mean()) / samples if is_classifier else None,
            _decibels(self._noise.loss(self._error, self._energy)),
        )


def compare(
    reference: Session, model: Session, data: Dataset, metric: Metric, batch_size: int
) -> tuple[Score, Score]:
    """Scores of the reference (against itself) and of the model, in one pass over the data."""
    tallies = _Tally(metric), _Tally(metric)
    for batch in data.batches(batch_size):
        expected = reference.run(batch.feeds)
        got = expected if model is reference else model.run(batch.feeds)
        tallies[0].add(expected, expected, batch.labels, batch.count)
        tallies[1].add(expected, got, batch.labels, batch.count)
    first, second = (tally.score(data.count, labelled=data.has_labels) for tally in tallies)
    return first, second


def _equal_share(reference: Outputs, outputs: Outputs) -> float:
    """Mean over the outputs of the share of equal elements; none where an output's shape differs."""
    pairs = [(reference[name], outputs[name]) for name in reference]
    arrays = [(a, b) for a, b in pairs if isinstance(a, np.ndarray) and a.size]
    if not arrays:
        return 1.0
    return float(np.mean([(a == b).mean() if a.shape == b.shape else 0.0 for a, b in arrays]))


def _decibels(noise: float) -> float:
    """Noise relative to the signal in dB of SQNR; NaN is the worst of noise, not its absence."""
    if math.isnan(noise):
        return -math.inf
    return -10 * math.log10(noise) if noise > 0 else math.inf


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


def check_numbers(reference: Session, data: Dataset, metric: Metric, batch_size: int, seed: int) -> None:
    """Raise DataError where no sample gets a number at some output of the fp32 model: anything would be equal to that."""
    data, lost = data.some(_GLANCED_AT, seed), set(metric.kinds)
    for batch in data.batches(batch_size) if lost else ():
        outputs = reference.run(batch.feeds, list(metric.kinds))
        lost = {name for name in lost if outputs[name].size and not np.isfinite(outputs[name]).any()}
    if lost:
        raise DataError(
            f"the fp32 model gives nothing but NaN or Inf at output {min(lost)!r} on {data.description}: its weights are "
            "damaged, or the data are not what it was trained on. Check them, or go on with --force"
        )


def check_labels(reference: Session, data: Dataset, metric: Metric, batch_size: int, seed: int) -> None:
    """Raise DataError where a labelled classifier does no better than guessing in full precision."""
    name = classifier_output(metric)
    if name is None or not data.has_labels or data.count < _ENOUGH_LABELS:
        return
    data = data.some(_LOOKED_AT, seed)
    hits = total = outcomes = 0
    for batch in data.batches(batch_size):
        values = reference.run(batch.feeds, [name])[name]
        outcomes = values.reshape(len(values), -1).shape[1]
        hits, total = hits + int((classes(values) == batch.labels).sum()), total + batch.count
    chance = 1 / outcomes
    if hits / total <= chance + 3 * math.sqrt(chance * (1 - chance) / total):
        raise DataError(
            f"the fp32 model's top-1 is {hits / total:.1%} on {data.description}, no better than chance "
            f"({chance:.1%}): preprocessing or label order is wrong, not the model. Check them, or go on with --force"
        )


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
    return float(losses_by_batch(expected, model, metric).sum())


def losses_by_batch(expected: Expected, model: Session, metric: Metric) -> Sums:
    """What each batch has in the loss, float64 [batches]; their sum is the metric's loss of the model."""
    distances, weight = [], np.zeros(len(metric.kinds))
    for batch, outputs in expected.batches():
        weight = weight + metric.weight(outputs)
        distances.append(metric.distance(outputs, model.run(batch.feeds)))
    return np.array([metric.loss(distance, weight) for distance in distances])
