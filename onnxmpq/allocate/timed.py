"""Latency as a budget: seconds of layers as one more row of the program, and the file's own as its check.

Latencies are no exact sums over layers (neighbours in float share their Q/DQ pairs, caches are shared by all), so
the plan's file is measured and the row's limit moved by what the sum was wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from onnxmpq.budgets.budget import Budget, Kind
from onnxmpq.budgets.row import SLACK, Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan

_ROUNDS = 8
_MARGIN = 0.98  # of the limit is aimed at: the next measurement of a file differs by a percent or two

Solve = Callable[[Sequence[Row]], Plan]


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Seconds of every option of every layer, and of the whole fp32 network."""

    seconds: Mapping[str, Mapping[Option, float]]
    fp32: float

    def limit(self, budget: Budget) -> float:
        """The seconds that a latency budget allows."""
        return budget.limit * (self.fp32 if budget.kind is Kind.LATENCY else 1e-3)


def is_timed(budget: Budget) -> bool:
    """True for budgets on latency."""
    return budget.kind in {Kind.LATENCY, Kind.MILLISECONDS}


def time_row(budgets: Sequence[Budget], layers: Sequence[Layer], options: Options, table: TimeTable) -> Row:
    """The tightest of the latency budgets as a row, in seconds; a width's share is that of its activations.

    Raises InfeasibleError with the least measured where even the fastest option of every layer is too slow.
    """
    tightest = min((b for b in budgets if is_timed(b)), key=table.limit)
    use = tuple(tuple(table.seconds[la.name][o] for o in options[la.name]) for la in layers)
    limit = table.limit(tightest)
    row = Row(f"budget {tightest}", use, limit, lambda time: tightest.spell(time / limit * tightest.limit))
    if row.least() > limit * (1 + SLACK):
        raise InfeasibleError(
            f"{row.name} cannot be met: the least measured is {row.least() / table.fp32:.3f}x, "
            f"{row.least() * 1e3:.3f} ms against {table.fp32 * 1e3:.3f} ms of fp32. All stored widths are equally "
            "fast; only integer activations in place of float ones save time"
        )
    return row


@dataclass(frozen=True, slots=True)
class _Tried:
    limit: float  # of the row that the plan was found under
    plan: Plan
    seconds: float  # of its file


def within_time(solve: Solve, row: Row, latency: Callable[[Plan], float]) -> Plan:
    """The plan of the widest limit that `solve` gives under a row, of those whose files keep the row's own limit.

    `latency` measures a plan's file, in seconds. The row's limit is moved by what its sum was wrong, and halfway
    to a limit known to be too wide or too narrow where that leads beyond it.

    Raises InfeasibleError where `solve` finds no plan, or none whose file is fast enough.
    """
    tried = _tried(solve, row, latency)
    kept = [entry for entry in tried if entry.seconds <= row.limit * _MARGIN]
    if kept:
        return max(kept, key=attrgetter("limit")).plan
    fastest = min(tried, key=attrgetter("seconds"))
    if fastest.seconds > row.limit:
        raise InfeasibleError(
            f"{row.name} cannot be met: the fastest file that the other budgets and options leave takes "
            f"{row.spell(fastest.seconds)}"
        )
    return fastest.plan


def _tried(solve: Solve, row: Row, latency: Callable[[Plan], float]) -> list[_Tried]:
    """The plans under limits that close in on what the row's own limit really allows."""
    target = row.limit * _MARGIN
    tried: list[_Tried] = []
    limit, low, high = max(target, row.least()), row.least(), math.inf
    for _ in range(_ROUNDS):
        try:
            plan = solve((replace(row, limit=limit),))
        except InfeasibleError:  # other budgets leave no plan as fast as that
            if not tried and limit >= row.limit:
                raise
            low, limit = limit, (limit + high) / 2 if tried else row.limit
            continue
        known = next((entry.seconds for entry in tried if entry.plan == plan), None)
        seconds = latency(plan) if known is None else known
        tried.append(_Tried(limit, plan, seconds))
        if target * _MARGIN <= seconds <= target:
            break
        low, high = (limit, high) if seconds <= target else (low, limit)
        limit *= target / seconds
        if not low < limit < high:
            limit = (low + high) / 2
    return tried
