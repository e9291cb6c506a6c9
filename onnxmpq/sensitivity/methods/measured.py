"""Sensitivity measured: the loss of the network with one layer at one width and all others in float.

    cost[layer][option] = loss(float outputs, outputs with that layer's weight replaced by its candidate)

The weight is the one that would ship at that width, before it is requantized behind other quantized layers. Forward
runs only, no labels.

A small error's loss grows with its square. Widths above four bits disturb the network so little that the loss is read off
the weight's squared error, from that of the widest width that is measured; a width between two that are measured lies on
the power of the error that joins them. Noise must not make a narrower width look better than a wider one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import fmean
from typing import ClassVar

import numpy as np

from onnxmpq.sensitivity.chain import State, Step
from onnxmpq.sensitivity.directional import changes_of, widths_of
from onnxmpq.sensitivity.losses_alone import losses_alone
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, titled
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS, Option

_MOST_CHANGED, _FEWEST = 128, 4  # changes that all samples are run for; samples of many more

Costs = Mapping[Option, float]
Losses = dict[tuple[str, int], float]  # by layer and width


@dataclass(frozen=True, slots=True)
class CandidateWeights:
    """A layer's constants at each of its widths."""

    candidate: Callable[[Layer, int], Mapping[str, Array]]
    widths: Mapping[str, Sequence[int]]

    def __call__(self, step: Step) -> Iterator[State]:
        return (dict(self.candidate(step.layer, bits)) for bits in self.widths[step.layer.name])


@dataclass(frozen=True, slots=True)
class Measured:
    """The loss of each layer that has a choice at its widths up to the first of `widest` bits or more; the rest is read off.

    Of these each `every` so many-th one, and the narrowest. Costs, in the metric's own units, take about half a forward of
    the samples for each layer and width, since a changed layer cannot change what comes before it.
    """

    widest: int = 4
    every: int = 2

    adds_up: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("measured", "widest", self.widest, 1)
        require_count("measured", "every", self.every, 1)

    def __call__(self, probe: Probe) -> CostTable:
        """Measure the table."""
        asked = widths_of(probe)
        narrow = {name: self.narrow(bits) for name, bits in asked.items()}
        most = changed_samples(probe.data.count, sum(map(len, narrow.values())))
        probe = replace(probe, data=probe.data.some(most, probe.seed))
        losses = _losses(probe, narrow)
        finite = _without_nan(losses)
        for layer in probe.chosen:
            finite |= _read_off(probe, layer, asked[layer.name], narrow[layer.name], finite)
        costs = {name: {o: finite[name, o.weight_bits] for o in probe.options[name]} for name in asked}
        return tidy(
            CostTable(costs, probe.metric.name, titled("measured", self), probe.data.count, len(losses))
        )

    def narrow(self, widths: Sequence[int]) -> list[int]:
        """Those of a layer's widths, in order, whose loss is measured."""
        last = next((bits for bits in widths if bits >= self.widest), widths[-1])
        return [
            bits for bits in widths if bits == widths[0] or (bits <= last and (last - bits) % self.every == 0)
        ]


measured = Measured()
at_every_width = Measured(widest=FLOAT_BITS, every=1)


def changed_samples(samples: int, changes: int) -> int:
    """How many of the samples the network is run for with each change: time would grow with the square of its depth otherwise."""
    return min(samples, max(_FEWEST, _MOST_CHANGED * samples // max(changes, 1)))


def _losses(probe: Probe, widths: Mapping[str, Sequence[int]]) -> Losses:
    """Those of every width, measured."""
    found = losses_alone(probe, probe.chosen, CandidateWeights(probe.candidate, widths))
    return {(name, widths[name][place]): loss for (name, place), loss in found.items()}


def _without_nan(losses: Losses) -> Losses:
    """A width that makes the network give no numbers costs more than all that other layers may."""
    worst: dict[str, float] = {}
    for (layer, _), loss in losses.items():
        worst[layer] = max(worst.get(layer, 0.0), loss if math.isfinite(loss) else 0.0)
    never = 2 * sum(worst.values()) or 1.0
    return {key: loss if math.isfinite(loss) else never for key, loss in losses.items()}


def _read_off(
    probe: Probe, layer: Layer, widths: Sequence[int], known: Sequence[int], losses: Losses
) -> Losses:
    """The losses at a layer's widths that were not measured."""
    if len(known) == len(widths):
        return {}
    errors = {}
    for bits in widths:  # one by one: each takes the memory of a weight
        (change,) = changes_of(probe, layer, [bits])
        errors[bits] = float(np.square(change[layer.weight], dtype=np.float64).sum())
    measured = [(errors[bits], losses[layer.name, bits]) for bits in known]
    return {(layer.name, bits): loss_of(errors[bits], measured) for bits in widths if bits not in known}


def loss_of(error: float, known: Sequence[tuple[float, float]]) -> float:
    """The loss of a squared error, by those known (squared error, loss) in the order of their widths.

    Between two of them it is the power of the error that joins them, below the last one in proportion; it is none above the first.
    """
    least, loss = known[-1]
    if error <= least or len(known) == 1:
        return loss * error / least if least > 0 else 0.0
    (more, above), (less, below) = next(
        (pair for pair in pairwise(known) if pair[1][0] <= error), tuple(known[-2:])
    )
    if min(above, below, less) <= 0 or more <= less:
        return max(above, below)
    share = math.log(error / less) / math.log(more / less)
    return float(below * (above / below) ** min(max(share, 0.0), 1.0))


def tidy(table: CostTable) -> CostTable:
    """Every layer's costs falling as its widths grow; one that no sample reached costs what others do on average."""
    costs = {name: monotone(options) for name, options in table.costs.items()}
    known = [options for options in costs.values() if any(options.values())]
    filled = {
        name: options if any(options.values()) else _typical(options, known)
        for name, options in costs.items()
    }
    return replace(table, costs=filled)


def monotone(costs: Costs) -> dict[Option, float]:
    """The least raise of costs that lets none be below that of a wider option of the same activations."""
    raised = {}
    ordered = sorted(costs, key=lambda o: (o.activation_bits or 0, -o.weight_bits))
    for _, group in groupby(ordered, key=lambda o: o.activation_bits):
        highest = 0.0
        for option in group:
            highest = max(highest, costs[option])
            raised[option] = highest
    return {option: raised[option] for option in costs}


def _typical(options: Costs, known: list[dict[Option, float]]) -> dict[Option, float]:
    """The mean cost that other layers have at each option."""
    found = {o: [costs[o] for costs in known if o in costs] for o in options}
    return monotone({o: fmean(values) if values else 0.0 for o, values in found.items()})
