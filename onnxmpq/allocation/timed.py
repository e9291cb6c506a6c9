"""Latency as a budget: seconds of layers as one more row of the program, and the file's own as its check.

Latencies are no exact sums over layers (neighbours in float share their Q/DQ pairs, caches are shared by all), so
the plan's file is measured and the row's limit moved by what the sum was wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from onnxmpq.allocation.allocate import SLACK, Row
from onnxmpq.allocation.constrain import Options
from onnxmpq.budget import Budget, Kind
from onnxmpq.errors import InfeasibleError
from onnxmpq.plan import Plan
from onnxmpq.spec import Layer, Option

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
    row = Row(f"budget {tightest} ({tightest.kind})", use, table.limit(tightest))
    if row.least() > row.limit * (1 + SLACK):
        raise InfeasibleError(
            f"budget {tightest} cannot be met: the least measured is {row.least() / table.fp32:.3f}x, "
            f"{row.least() * 1e3:.3f} ms against {table.fp32 * 1e3:.3f} ms of fp32. All stored widths are equally "
            "fast; only integer activations in place of float ones save time"
        )
    return row


def within_time(solve: Solve, row: Row, latency: Callable[[Plan], float]) -> Plan:
    """The plan that `solve` gives under a row whose limit its file keeps; the fastest tried where none does.

    `latency` measures a plan's file, in seconds. The row's limit is moved by what its sum was wrong, and halfway
    to a limit known to be too wide or too narrow where that leads beyond it.
    """
    target = row.limit * _MARGIN
    tried: list[tuple[Plan, float]] = []
    limit, low, high = max(target, row.least()), row.least(), math.inf
    for _ in range(_ROUNDS):
        plan = solve((replace(row, limit=limit),))
        seconds = next((known for before, known in tried if before == plan), None)
        if seconds is None:
            seconds = latency(plan)
            tried.append((plan, seconds))
        if target * _MARGIN <= seconds <= target:
            break
        low, high = (limit, high) if seconds <= target else (low, limit)
        limit *= target / seconds
        if not low < limit < high:
            limit = (low + high) / 2
    kept = [entry for entry in tried if entry[1] <= target]
    return max(kept, key=itemgetter(1))[0] if kept else min(tried, key=itemgetter(1))[0]
