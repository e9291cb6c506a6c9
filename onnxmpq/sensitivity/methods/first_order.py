"""First-order Taylor sensitivity (Chauhan, Tiwari, Vikram, ICCV Workshops 2023, pp. 1335-1344).

With g_n the gradient of sample n's cross-entropy with respect to a layer's weight at the float network, and
D = candidate - weight, the loss of the sample changes by <g_n, D> to first order. The paper's text is not public
beyond its abstract; what the cost of a width makes of it is one of `FORMS`, the most literal one by default:

    mean-absolute   F1   mean over n of |<g_n, D>|
    signed          F2   |<mean g, D>|: close to zero at a trained optimum, hence noisy
    elementwise     F3   sum over weights of |mean g x D|
    squared         F4   mean over n of <g_n, D>^2, the empirical Fisher form
    diagonal        F4   sum over weights of mean g^2 x D^2
    norm            F5   ||mean g|| x ||D||^2

The cost of a layer never rises with its width: where it would, the wider one's counts for both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from onnxmpq.data import Batch, Dataset
from onnxmpq.errors import DataError, OptionError
from onnxmpq.metrics.metric import Metric, classifier_output, probabilities
from onnxmpq.onnx_io.graph import export_model
from onnxmpq.passes.expose.emit_gradients import gradient_name
from onnxmpq.passes.expose.emit_loss import EmitLoss, Loss
from onnxmpq.sensitivity.directional import (
    Objective,
    Shapes,
    Targets,
    batch_shapes,
    by_option,
    changes_of,
    check_sizes,
    differentiable,
    emit_gradients,
    fed_targets,
    note_runs,
    passes,
    require_reached,
    slopes,
    widths_of,
)
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_known, titled
from onnxmpq.values.arrays import Doubles
from onnxmpq.values.costs import CostTable
from onnxmpq.values.layer import Layer
from onnxmpq.values.output_kind import OutputKind

_LOGGER = logging.getLogger(__name__)

FORMS = ("mean-absolute", "signed", "elementwise", "squared", "diagonal", "norm")
_SQUARED = "squared cross-entropy"
_UNITS = dict.fromkeys(FORMS, "cross-entropy") | {
    "squared": _SQUARED,
    "diagonal": _SQUARED,
    "norm": "cross-entropy x weight",
}
LABELS = ("data", "likeliest", "drawn")
_BY_SAMPLE: Mapping[str, Callable[[Doubles], Doubles]] = {  # what a form sums over samples of the slopes
    "mean-absolute": np.abs,
    "signed": np.asarray,
    "squared": np.square,
}


@dataclass(frozen=True, slots=True)
class FirstOrder:
    """The method with its open points: `form` is one of FORMS, `labels` where the classes come from.

    Labels are those of the data, the float network's likeliest class, or one drawn from its probabilities (then
    "squared" is the true Fisher form); the last two need no labels, and are no longer the paper's.
    """

    form: str = FORMS[0]
    labels: str = LABELS[0]

    def __post_init__(self) -> None:
        require_known("first-order", "form", self.form, FORMS)
        require_known("first-order", "labels", self.labels, LABELS)

    def __call__(self, probe: Probe) -> CostTable:
        """Costs in nats of cross-entropy (squared for "squared" and "diagonal").

        One forward and one backward run of the samples; "diagonal" takes them one by one. Raises OptionError
        for a network that is no classifier, DataError where labels are wanted and the data have none.
        """
        self.check_data(probe.metric, probe.data, probe.training)
        by_slope = self.form in _BY_SAMPLE
        costs = self._by_slopes(probe) if by_slope else self._by_weights(probe)
        falling = {name: np.maximum.accumulate(values[::-1])[::-1] for name, values in costs.items()}
        evaluations = passes(probe) if by_slope else 1
        return CostTable(
            by_option(probe, falling), _UNITS[self.form], titled("first-order", self), probe.data.count, evaluations
        )  # fmt: skip

    def check_data(self, metric: Metric, data: Dataset, _training: Dataset | None) -> None:
        """Raise as `__call__` does for what has no cross-entropy."""
        _classifier(metric)
        if self.labels == "data" and not data.has_labels:
            raise DataError(
                f"method first-order needs labels, and {data.description} have none; give --data with an "
                "array 'labels' of class indices (or a folder for each class), or use --method fisher or "
                "onnxmpq.sensitivity.methods.first_order:without_labels"
            )

    def _by_slopes(self, probe: Probe) -> dict[str, Doubles]:
        """F1, F2 and F4, without gradients of weights."""
        forms = list(_BY_SAMPLE)
        widths = widths_of(probe)
        totals = {name: np.zeros((len(forms), len(bits))) for name, bits in widths.items()}
        for layer, columns, found in slopes(probe, partial(self.objective, probe)):
            totals[layer][:, columns] += [_BY_SAMPLE[form](found).sum(axis=0) for form in forms]
        sums = {form: {n: np.abs(total[i]) for n, total in totals.items()} for i, form in enumerate(forms)}
        probe.note(cancellation(sums["signed"], sums["mean-absolute"]))
        return {name: total / probe.data.count for name, total in sums[self.form].items()}

    def _by_weights(self, probe: Probe) -> dict[str, Doubles]:
        """F3, F5 and the diagonal of F4, from the gradients of the weights themselves."""
        layers = probe.chosen
        power = 2 if self.form == "diagonal" else 1
        totals: dict[str, Doubles] = {layer.name: np.zeros(layer.shape) for layer in layers}
        for name, gradient in _weight_gradients(probe, self.objective(probe), layers, one_by_one=power == 2):
            totals[name] += gradient**power
        count = probe.data.count
        return {layer.name: self._form(probe, layer, totals[layer.name] / count) for layer in layers}

    def _form(self, probe: Probe, layer: Layer, mean: Doubles) -> Doubles:
        """The cost of every width, from the mean of the gradients or of their squares."""
        widths = widths_of(probe)[layer.name]
        changes = [change[layer.weight].astype(np.float64) for change in changes_of(probe, layer, widths)]
        forms: Mapping[str, Callable[[Doubles], Any]] = {
            "elementwise": lambda change: np.abs(mean * change).sum(),
            "diagonal": lambda change: (mean * change**2).sum(),
            "norm": lambda change: np.linalg.norm(mean) * (change**2).sum(),
        }
        return np.array([float(forms[self.form](change)) for change in changes])

    def objective(self, probe: Probe) -> Objective:
        """Cross-entropy with the classes of every batch."""
        output, kind = _classifier(probe.metric)
        if self.labels == "data":
            return Objective(Loss.CROSS_ENTROPY, {output: kind}, lambda batch: {output: batch.given_labels})
        rng = np.random.default_rng(probe.seed)
        session = probe.runtime.session(probe.model, spin=False)

        def targets(batch: Batch) -> Targets:
            values = session.run(batch.feeds, [output])[output]
            p = probabilities(values.reshape(len(values), -1), kind)
            noise = rng.gumbel(size=p.shape) if self.labels == "drawn" else 0.0
            return {output: np.argmax(np.log(p) + noise, axis=1)}

        return Objective(Loss.CROSS_ENTROPY, {output: kind}, targets)


def cancellation(signed: Mapping[str, Doubles], absolute: Mapping[str, Doubles]) -> str:
    """How far the samples' slopes cancel, as F2 over F1 at the narrowest width: near 0, F2 ranks noise.

    A line for the report; each layer's own goes to the log, at INFO.
    """
    ratios = {name: float(signed[name][0] / absolute[name][0]) for name in signed if absolute[name][0] > 0}
    for name, ratio in ratios.items():
        _LOGGER.info("%s: F2 / F1 is %.2g", name, ratio)
    if not ratios:
        return "no sample's loss has a slope along any layer's rounding"
    least, most = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    return (
        f"mean slope over mean magnitude of slopes (F2 / F1): {np.median(list(ratios.values())):.2g} in the median, "
        f"{ratios[least]:.2g} ({least}) to {ratios[most]:.2g} ({most})"
    )


squared = FirstOrder("squared")
without_labels = FirstOrder(labels="likeliest")


def _classifier(metric: Metric) -> tuple[str, OutputKind]:
    """The one output that holds classes. Raises OptionError where there is none."""
    output = classifier_output(metric)
    if output is None:
        raise OptionError(
            "method first-order needs one output of shape [N, classes] for its cross-entropy, and the outputs are "
            f"{', '.join(f'{name} ({kind})' for name, kind in metric.kinds.items())}; use --method fisher"
        )
    return output, metric.kinds[output]


def _weight_gradients(
    probe: Probe, objective: Objective, layers: Sequence[Layer], *, one_by_one: bool
) -> Iterator[tuple[str, Doubles]]:
    """(layer, gradient of its weight summed over a batch), batch by batch."""
    note_runs(probe)
    shapes, size = batch_shapes(probe, [layer.weight for layer in layers])
    session = probe.runtime.session(_emitted(probe, objective, layers, shapes), spin=False)
    done = 0
    for batch in probe.data.batches(1 if one_by_one else size):
        check_sizes(batch, shapes)
        values = session.run({**batch.feeds, **fed_targets(objective, batch)})
        for layer in layers:
            yield layer.name, values[gradient_name(layer.weight)].astype(np.float64)
        done += batch.count
        probe.progress(done, probe.data.count)


def _emitted(probe: Probe, objective: Objective, layers: Sequence[Layer], shapes: Shapes) -> onnx.ModelProto:
    graph = differentiable(probe.model)
    EmitLoss(objective.loss, objective.outputs)(graph)
    require_reached(emit_gradients(graph, {layer.name: [layer.weight] for layer in layers}, shapes))
    kept = {gradient_name(layer.weight) for layer in layers}
    graph.outputs = [output for output in graph.outputs if output.name in kept]
    return export_model(graph, probe.model)
