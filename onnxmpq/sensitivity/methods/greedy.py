"""Greedy search with the sensitivity measured again after each decision (Satoki et al. 2021, PMLR 157:886-901).

    l_k = argmax over the layers left of  top-1(network with l_1 .. l_{k-1} and l at b bits)

for one width after the other, widest first, each starting from the network that the last one left: N + (N-1)
+ ... + 1 = N(N+1)/2 evaluations a width. Layers that may stay in float start there: quantization may be partial. All
others start at their widest option, as the order in which they get there tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from onnxmpq.data import Dataset
from onnxmpq.metrics.metric import Metric
from onnxmpq.sensitivity.judge import Change, Judge, Outcome, require_labels
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, require_known, titled
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Judgement = Literal["top-1", "loss"]
Moves = Literal["passes", "steps"]
Move = tuple[Layer, Option]
# Whether its loss is no number, how bad it is, its loss, the layer's size.
Rank = tuple[bool, float, float, int]


@dataclass(frozen=True, slots=True)
class Greedy:
    """The search as a method; the paper's abstract leaves the options open, the defaults are its own words.

    `judged_by` "top-1" needs labels; equal top-1 is told apart by the loss, then the larger and the earlier layer
    goes first. "loss" is that alone: the probe's metric, without a temperature. A loss that is no number goes last.
    `moves` "passes" takes all layers to one width before any goes to the next; "steps" lowers any one layer by one
    option, the one that costs least, for each weight bit that it saves where `per_bit`. `updated` False orders each
    pass by one measurement at its start: what the paper argues against. `images` are at most looked at, None for
    all that the probe has.
    """

    judged_by: Judgement = "top-1"
    moves: Moves = "passes"
    per_bit: bool = True
    updated: bool = True
    images: int | None = None

    gives_path: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_known("greedy", "judged_by", self.judged_by, get_args(Judgement))
        require_known("greedy", "moves", self.moves, get_args(Moves))
        if self.images is not None:
            require_count("greedy", "images", self.images, 1)

    def __call__(self, probe: Probe) -> Trajectory:
        """The path from every layer as wide as it may be to every layer at its narrowest.

        Raises DataError without labels, OptionError for a model that is no classifier, where top-1 judges.
        """
        self.check_data(probe.metric, probe.data, probe.training)
        probe = probe.seeing(self.images)
        search = _Search(replace(probe, metric=probe.metric.plain), self.judged_by)
        if self.moves == "steps":
            _steps(search, per_bit=self.per_bit)
        else:
            _passes(search, updated=self.updated)
        losses = tuple(None if outcome is None else outcome.loss for outcome in search.outcomes)
        return Trajectory(
            tuple(search.plans), losses, search.probe.metric.name, titled("greedy", self), probe.data.count,
            search.judge.evaluations,
        )  # fmt: skip

    def check_data(self, metric: Metric, data: Dataset, _training: Dataset | None) -> None:
        """Raise as `__call__` does for what it cannot judge by."""
        if self.judged_by == "top-1":
            require_labels(metric, data, "greedy", "use --method onnxmpq.sensitivity.methods.greedy:by_loss")


greedy = Greedy()
by_loss = Greedy(judged_by="loss")
by_steps = Greedy(moves="steps")
_NOTHING = Outcome(0.0, 0.0, None)  # what no move can be held against


class _Search:
    """What is decided so far, and the path that led there."""

    def __init__(self, probe: Probe, judged_by: Judgement) -> None:
        self.probe, self.judged_by, self.judge = probe, judged_by, Judge(probe)
        self.layers = probe.chosen
        self.options = {name: probe.descent(name) for name in probe.options}
        self.state = {name: options[0] for name, options in self.options.items()}
        self.plans = [Plan(dict(self.state))]
        self.outcomes: list[Outcome | None] = [None]  # nobody measures where the search starts

    def decide(self, layer: Layer, option: Option, outcome: Outcome) -> None:
        self.state[layer.name] = option
        self.plans.append(Plan(dict(self.state)))
        self.outcomes.append(outcome)

    def try_all(self, moves: Sequence[Move], total: int) -> list[Outcome]:
        """The outcome of each move, made alone, from where the search stands; `total` is for the progress."""
        decided: dict[str, Array] = {}
        for layer in self.layers:
            decided |= self.probe.candidate(layer, self.state[layer.name].weight_bits)
        changes = [Change(la, self.probe.candidate(la, option.weight_bits)) for la, option in moves]
        outcomes = self.judge(decided, changes)
        self.probe.progress(min(self.judge.evaluations, total), total)
        return outcomes

    def rank(self, layer: Layer, outcome: Outcome, last: Outcome = _NOTHING, saved: int = 1) -> Rank:
        """What is lost since `last` for each bit saved: the least goes first, and equal ones in order of execution."""
        if math.isnan(outcome.loss - last.loss):
            return True, 0.0, 0.0, -layer.params
        worse = self._bad(outcome) - self._bad(last)
        return False, worse / saved, (outcome.loss - last.loss) / saved, -layer.params

    def _bad(self, outcome: Outcome) -> float:
        return outcome.loss if outcome.top1 is None or self.judged_by == "loss" else -outcome.top1


def _passes(search: _Search, *, updated: bool) -> None:
    """All layers to one width, then all to the next."""
    narrower = {
        name: {bits: o for bits, o in search.probe.by_width(name).items() if o != options[0]}
        for name, options in search.options.items()
    }
    widths = sorted({bits for options in narrower.values() for bits in options}, reverse=True)
    passes = [[(la, narrower[la.name][b]) for la in search.layers if b in narrower[la.name]] for b in widths]
    total = sum(len(left) * (len(left) + 1) // 2 if updated else 2 * len(left) for left in passes)
    for left in passes:
        if not updated:
            ranks = {m[0].name: search.rank(m[0], o) for m, o in _tried(search, left, total)}
            left.sort(key=lambda move, ranks=ranks: ranks[move[0].name])  # type: ignore[misc]
        while left:
            tried = _tried(search, left if updated else left[:1], total)
            move, outcome = min(tried, key=lambda pair: search.rank(pair[0][0], pair[1]))
            search.decide(*move, outcome)
            left.remove(move)


def _steps(search: _Search, *, per_bit: bool) -> None:
    """One layer by one option at a time, by what it costs, or costs for a weight bit saved."""
    total = sum(len(options) - 1 for options in search.options.values()) * len(search.layers)  # at most
    first = search.layers[0]
    (last,) = search.try_all([(first, search.state[first.name])], total)  # where it starts

    def price(move: Move, outcome: Outcome) -> Rank:
        layer, option = move
        bits = search.state[layer.name].weight_bits - option.weight_bits
        return search.rank(layer, outcome, last, layer.params * bits if per_bit else 1)

    while moves := [(layer, option) for layer in search.layers for option in _next(search, layer)]:
        move, last = min(_tried(search, moves, total), key=lambda pair: price(*pair))
        search.decide(*move, last)
    search.probe.progress(total, total)


def _tried(search: _Search, moves: Sequence[Move], total: int) -> list[tuple[Move, Outcome]]:
    return list(zip(moves, search.try_all(moves, total), strict=True))


def _next(search: _Search, layer: Layer) -> list[Option]:
    options = search.options[layer.name]
    return options[options.index(search.state[layer.name]) + 1 :][:1]
