"""The last word on a plan has the network as a whole: costs of layers add up nearly, not quite.

On samples that the costs were not measured on, the plan is compared with rivals that look at no costs (the uniform
one, say), and swaps are tried: one layer a width down, another one up. What is kept must better the loss on each half
of the samples, so that it is not their noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isnan

from onnxmpq.observer import Progress
from onnxmpq.values.costs import CostTable
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan

_SAME = 0.95  # of a plan's bits: a smaller plan leaves some of the budget unused, and is no rival

Move = tuple[str, Option, str, Option]  # a layer, its narrower option, another layer, its wider one
Meets = Callable[[Plan], bool]
Losses = Callable[[Plan], tuple[float, float]]  # of the network as a whole on each half of the samples


@dataclass(frozen=True, slots=True)
class Search:
    """A plan, its loss before and after, how many swaps were tried and kept, and the rival it was found from, if any."""

    plan: Plan
    before: float
    after: float
    tried: int
    kept: int
    rival: str | None = None


def improve(
    plan: Plan,
    costs: CostTable,
    layers: Sequence[Layer],
    options: Options,
    rivals: Mapping[str, Plan],
    meets: Meets,
    fits: Meets,
    losses: Losses,
    trials: int,
    progress: Progress,
) -> Search:
    """The best of the plan, the rivals by name, and `trials` swaps, most promising first, that meet the budgets.

    What only the plan's whole file can tell (`fits`) is asked of what would be kept.
    """
    start = _Standing(plan, losses(plan))
    options = as_computed(plan, options)
    rival, best = _best_rival(start, rivals, layers, meets, fits, losses)
    tried: set[Move] = set()
    kept = 0
    while len(tried) < trials:
        move = next((m for m in moves(best.plan, costs, options, meets) if m not in tried), None)
        if move is None:
            break
        tried.add(move)
        moved = _moved(best.plan, move)
        found = _Standing(moved, losses(moved))
        if found.betters(best) and fits(moved):
            best, kept = found, kept + 1
        progress(len(tried), trials)
    return Search(best.plan, start.mean, best.mean, len(tried), kept, rival)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A plan and its loss on each half of the samples."""

    plan: Plan
    losses: tuple[float, float]

    @property
    def mean(self) -> float:
        return sum(self.losses) / 2

    def betters(self, other: _Standing) -> bool:
        """On each half of the samples; any number betters none."""
        pairs = zip(self.losses, other.losses, strict=True)
        return all(new < old or (isnan(old) and not isnan(new)) for new, old in pairs)


def _best_rival(
    start: _Standing,
    rivals: Mapping[str, Plan],
    layers: Sequence[Layer],
    meets: Meets,
    fits: Meets,
    losses: Losses,
) -> tuple[str | None, _Standing]:
    """The best of the rivals that are about as large as the plan, by name; None and the plan where it is better."""
    name, best = None, start
    for title, other in rivals.items():
        if other != start.plan and meets(other) and _size(other, layers) >= _SAME * _size(start.plan, layers):
            found = _Standing(other, losses(other))
            if found.betters(best) and fits(other):
                name, best = title, found
    return name, best


def _size(plan: Plan, layers: Sequence[Layer]) -> float:
    """Stored bits of all weights."""
    return float(sum(layer.params * plan[layer.name].stored_bits for layer in layers))


def as_computed(plan: Plan, options: Options) -> Options:
    """Each layer's options that compute as the plan has it: the network as a whole's Q/DQ pairs stay where they are."""
    return {
        name: [o for o in choices if o.activation_bits == plan[name].activation_bits]
        for name, choices in options.items()
    }


def uniform_plan(layers: Sequence[Layer], options: Options, meets: Meets) -> Plan | None:
    """Every layer at the widest width that meets the budgets for all, or as near below as it may be; None if none."""
    widths = sorted({o.weight_bits for choices in options.values() for o in choices}, reverse=True)
    for width in widths:
        chosen = {}
        for layer in layers:
            choices = sorted(options[layer.name])
            chosen[layer.name] = max((o for o in choices if o.weight_bits <= width), default=choices[0])
        if meets(Plan(chosen)):
            return Plan(chosen)
    return None


def moves(plan: Plan, costs: CostTable, options: Options, meets: Meets) -> Iterator[Move]:
    """Swaps within the budgets, cheapest first."""
    down, up = _steps(plan, costs, options, -1), _steps(plan, costs, options, 1)
    pairs = [
        (lost + gained, (name, narrow, other, wide))
        for (lost, name, narrow), (gained, other, wide) in product(down, up)
        if name != other
    ]
    for _, move in sorted(pairs):
        if meets(_moved(plan, move)):
            yield move


def _steps(plan: Plan, costs: CostTable, options: Options, direction: int) -> list[tuple[float, str, Option]]:
    """What the costs say of every layer's next option in a direction: (change, layer, option)."""
    found = []
    for name, choices in options.items():
        ordered = sorted(choices)
        index = ordered.index(plan[name]) + direction
        if 0 <= index < len(ordered):
            table = costs.costs[name]
            found.append((table[ordered[index]] - table[plan[name]], name, ordered[index]))
    return found


def _moved(plan: Plan, move: Move) -> Plan:
    name, narrow, other, wide = move
    return Plan({**plan.options, name: narrow, other: wide})
