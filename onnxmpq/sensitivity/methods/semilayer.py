"""Semilayers (Matsumoto et al. 2024, PMLR 222:882-894): the halves of a layer that gain and lose by rounding.

For each width, falling: dL(c) = CE(only channel c at b bits) - CE(float) splits every layer in two by its sign.
These semilayers are tried in the order of K' = KL(float || only this one at b bits) / weights saved, in the network
as it then is, and kept where top-1 does not fall; what is never kept is taken to few bits at the end, in the same
order and unasked. Ours, so that any budget can be met: what is not quantized yet, in a layer that may not stay in float,
counts as being at its widest option, and behind the end of the paper's search everything goes on down, width by width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxmpq.data import Dataset
from onnxmpq.metrics.metric import Metric
from onnxmpq.sensitivity.judge import Change, Judge, Outcome, require_labels
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, titled
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.group import Groups, channels_of, divided, layer_of
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS, Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import along

Widths = NDArray[np.int64]  # of a layer's output channels

# Evaluations of a layer's two halves at a width: alone, in the running network, on the way down.
_OF_HALVES = 6
_CHANNELS_AT_ONCE = 64  # candidates of one layer that are held together


@dataclass(frozen=True, slots=True)
class Semilayer:
    """One half of a layer, and how soon it is to be quantized: `priority` is K', the least first."""

    layer: Layer
    channels: tuple[int, ...]
    priority: float


@dataclass(frozen=True, slots=True)
class Semilayers:
    """The search as a method. `postponed` is the width that what was never kept goes to (the paper: 6).

    `images` are at most looked at, None for all that the probe has: there is an evaluation for every channel and width.
    Weights are rounded from float at every width, and every measurement starts from a fresh network, where the
    authors' code does neither.
    """

    postponed: int = 6
    images: int | None = None

    gives_path: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("semilayer", "postponed", self.postponed, 1)
        if self.images is not None:
            require_count("semilayer", "images", self.images, 1)

    def __call__(self, probe: Probe) -> Trajectory:
        """The path from everything as wide as it may be to everything at its narrowest.

        Its plans are over groups of channels: those that have one width all along the path.
        Costs an evaluation for every channel and width. Raises DataError without labels, OptionError for a model
        that is no classifier.
        """
        self.check_data(probe.metric, probe.data, probe.training)
        probe = probe.seeing(self.images)
        search = SemilayerSearch(replace(probe, metric=probe.metric.plain))
        widths = sorted({bits for found in search.options.values() for bits in found}, reverse=True)
        for bits in widths:
            search.split(bits)
            search.accept(bits)
        search.postpone(min(widths, key=lambda bits: (abs(bits - self.postponed), bits)), FLOAT_BITS)
        for bits in widths:
            search.postpone(bits, bits + 1)
        probe.progress(search.total, search.total)
        return search.trajectory(titled("semilayer", self))

    def check_data(self, metric: Metric, data: Dataset, _training: Dataset | None) -> None:
        """Raise as `__call__` does for what it cannot judge by."""
        require_labels(metric, data, "semilayer", "use another --method")


semilayer = Semilayers()


def _floats(layer: Layer) -> Widths:
    """The widths of a layer's channels where all are in float."""
    return np.full(layer.channels, FLOAT_BITS, np.int64)


@dataclass(frozen=True, slots=True)
class _Point:
    """The width of every channel of every layer, and what the network then does."""

    widths: dict[str, Widths]
    outcome: Outcome


class SemilayerSearch:
    """The running network, width by width: `split` a width first, then `accept` or `postpone` its `halves`."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.layers, self.judge = probe, probe.chosen, Judge(probe)
        self.options = {name: probe.by_width(name) for name in probe.options}
        self.halves: dict[int, list[Semilayer]] = {}
        widths: dict[str, Widths] = {la.name: _floats(la) for la in self.layers}
        unchanged = [self._change(la, widths[la.name]) for la in self.layers]
        # Of the float network, as each layer's changes are run.
        self.floats = dict(zip(widths, self.judge({}, unchanged), strict=True))
        start = self.floats[self.layers[0].name]
        self.path = [_Point(widths, start)]
        self.kept = [start.top1 or 0.0]  # top-1 at the start and after each acceptance
        # Of a layer at most, and one in float.
        self.total = sum((la.channels + _OF_HALVES) * len(self.options[la.name]) + 1 for la in self.layers)

    def split(self, bits: int) -> None:
        """The semilayers of every layer that may have this width, in the order of their priorities."""
        halves: list[tuple[Layer, tuple[int, ...]]] = []
        for layer in self.layers:
            if bits in self.options[layer.name]:
                gains = self._gains(layer, bits)
                both = (np.flatnonzero(gains), np.flatnonzero(~gains))
                halves += [(layer, tuple(channels.tolist())) for channels in both if len(channels)]
        outcomes = self.judge({}, [self._alone(layer, channels, bits) for layer, channels in halves])
        self._report()
        ranked = []
        for (layer, channels), outcome in zip(halves, outcomes, strict=True):
            saved = len(channels) * layer.params / layer.channels * (FLOAT_BITS - bits) / FLOAT_BITS
            ranked.append(Semilayer(layer, channels, outcome.loss / saved))
        self.halves[bits] = sorted(ranked, key=lambda half: (math.isnan(half.priority), half.priority))

    def accept(self, bits: int) -> None:
        """Try every semilayer in the running network; top-1 never falls, and what it rises to is the new bar.

        A loss that is no number is refused, whatever classes it comes with.
        """
        for half in self.halves[bits]:
            point = self._lowered(half.layer, half.channels, bits)
            if (point.outcome.top1 or 0.0) >= self.kept[-1] and not math.isnan(point.outcome.loss):
                self.kept.append(point.outcome.top1 or 0.0)
                self.path.append(point)

    def postpone(self, bits: int, above: int) -> None:
        """Take all channels of `above` bits or more to this width, semilayer by semilayer."""
        for half in self.halves[bits]:
            widths = self.path[-1].widths[half.layer.name]
            channels = [c for c in half.channels if widths[c] >= above]
            if channels:
                self.path.append(self._lowered(half.layer, channels, bits))
        for layer in self.layers:  # those that may not have this width
            wide = np.flatnonzero(self.path[-1].widths[layer.name] == FLOAT_BITS)
            if len(wide) and above == FLOAT_BITS:
                self.path.append(self._lowered(layer, wide.tolist(), max(self.options[layer.name])))

    def trajectory(self, method: str) -> Trajectory:
        """The points as plans over groups of channels with one history; a loss is told where the file could be so."""
        found = {layer.name: self._groups(layer) for layer in self.layers}
        groups = {name: own for name, own in found.items() if len(own) > 1}
        plans = tuple(self._plan(point, groups) for point in self.path)
        losses = tuple(point.outcome.loss if self._is_real(point) else None for point in self.path)
        return Trajectory(
            plans, losses, self.probe.metric.name, method, self.probe.data.count, self.judge.evaluations, groups
        )  # fmt: skip

    def _groups(self, layer: Layer) -> tuple[tuple[int, ...], ...]:
        """The layer's channels by their widths along the path."""
        history = np.stack([self._stored(layer, point) for point in self.path])
        _, number = np.unique(history, axis=1, return_inverse=True)
        groups = [np.flatnonzero(number.ravel() == i).tolist() for i in range(number.max() + 1)]
        return tuple(map(tuple, sorted(groups)))

    def _plan(self, point: _Point, groups: Groups) -> Plan:
        """The widths at a point; a group's channels have one."""
        stored = {layer.name: self._stored(layer, point) for layer in self.layers}
        units = [(unit, layer_of(unit).name) for unit in divided(self.layers, groups)]
        return Plan({u.name: self._option(name, int(stored[name][channels_of(u)[0]])) for u, name in units})

    def _stored(self, layer: Layer, point: _Point) -> Widths:
        """What the channels would be stored at: as wide as they may be where they are float still."""
        return np.minimum(point.widths[layer.name], self.probe.descent(layer.name)[0].weight_bits)

    def _option(self, layer: str, bits: int) -> Option:
        return self.options[layer].get(bits) or self.probe.untouched[layer]

    def _is_real(self, point: _Point) -> bool:
        """True where every channel that is float may stay so."""
        floats = {name for name, widths in point.widths.items() if (widths == FLOAT_BITS).any()}
        return floats <= self.probe.untouched.keys()

    def _gains(self, layer: Layer, bits: int) -> NDArray[np.bool_]:
        """Which channels lower the loss, rounded alone: all or none in control flow, of stacks and of embeddings, which no file divides.

        A loss that is no number is none that gains.
        """
        # Cut behind another layer, the same float network differs in the last digits.
        entropy = self.floats[layer.name].cross_entropy or 0.0
        if layer.weights_only or layer.layout.stacked or not layer.layout.columns:
            whole = self._alone(layer, range(layer.channels), bits)
            losses = [outcome.cross_entropy for outcome in self.judge({}, [whole])]
            return np.repeat(np.array(losses) - entropy <= 0, layer.channels)
        return np.array([o.cross_entropy for o in self._one_by_one(layer, bits)]) - entropy <= 0

    def _one_by_one(self, layer: Layer, bits: int) -> Iterable[Outcome]:
        """What each channel alone does to the float network."""
        for first in range(0, layer.channels, _CHANNELS_AT_ONCE):
            some = range(first, min(first + _CHANNELS_AT_ONCE, layer.channels))
            yield from self.judge({}, [self._alone(layer, (channel,), bits) for channel in some])
            self._report()

    def _alone(self, layer: Layer, channels: Sequence[int], bits: int) -> Change:
        """These channels at a width, all others in float."""
        widths = _floats(layer)
        widths[list(channels)] = bits
        return self._change(layer, widths)

    def _lowered(self, layer: Layer, channels: Sequence[int], bits: int) -> _Point:
        """The running network with some channels at a new width, and its outcome."""
        now = self.path[-1].widths
        widths = now[layer.name].copy()
        widths[list(channels)] = bits
        decided: dict[str, Array] = {}
        for other in self.layers:
            if (now[other.name] < FLOAT_BITS).any():
                decided |= self._change(other, now[other.name]).constants
        outcome = self.judge(decided, [self._change(layer, widths)])[0]
        self._report()
        return _Point({**now, layer.name: widths}, outcome)

    def _change(self, layer: Layer, widths: Widths) -> Change:
        """The layer's constants with every channel from the candidate of its own width."""
        mixed: dict[str, Array] = {}
        for bits in np.unique(widths).tolist():
            chosen = widths == bits
            for name, values in self.probe.candidate(layer, bits).items():
                is_weight = name == layer.weight
                channels = chosen.reshape(layer.scale_shape) if is_weight else chosen
                place = along(channels, layer.axis if is_weight else 0, values.ndim)
                mixed[name] = np.where(place, values, mixed[name]) if name in mixed else values
        return Change(layer, mixed)

    def _report(self) -> None:
        self.probe.progress(min(self.judge.evaluations, self.total), self.total)
