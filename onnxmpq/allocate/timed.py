"""Latency as a budget: times of layers as one more row of the program, and the file's own as its check.

Latencies are no exact sums over layers (neighbours in float share their Q/DQ pairs, caches are shared by all), so
the plan's file is measured and the row's limit moved by what the sum was wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from onnxmpq.budgets.budget import Budget, needing
from onnxmpq.budgets.kind import Known, Needs
from onnxmpq.budgets.row import Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.latency import TimeTable
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Options
from onnxmpq.values.plan import Plan

_ROUNDS = 8
_MARGIN = 0.98  # of the limit is aimed at: the next measurement of a file differs by a percent or two

Solve = Callable[[Sequence[Row]], Plan]


def time_row(
    budgets: Sequence[Budget], layers: Sequence[Layer], options: Options, times: TimeTable
) -> tuple[Budget, Row]:
    """The tightest of the latency budgets, and its row; a width's share is that of its activations.

    Raises InfeasibleError with the least measured where even the fastest option of every layer is too slow.
    """
    timed = needing(budgets, Needs.TIME)
    rows = [row for b in timed if (row := b.row(layers, options, Known(times=times))) is not None]
    budget, row = max(zip(timed, rows, strict=True), key=lambda pair: pair[1].least() / pair[1].limit)
    if not row.allows(row.least()):
        least = sum(min(times.seconds[layer.name][o] for o in options[layer.name]) for layer in layers)
        raise InfeasibleError(
            f"{row.name} cannot be met: the least measured is {least / times.fp32:.3f}x, "
            f"{least * 1e3:.3f} ms against {times.fp32 * 1e3:.3f} ms of fp32. All stored widths are equally "
            "fast; only integer activations in place of float ones save time"
        )
    return budget, row


@dataclass(frozen=True, slots=True)
class _Tried:
    limit: float  # of the row that the plan was found under
    plan: Plan
    used: float  # of the row, by its file


def within_time(solve: Solve, row: Row, measured: Callable[[Plan], float]) -> Plan:
    """The plan of the widest limit that `solve` gives under a row, of those whose files keep the row's own limit.

    `measured` says what a plan's file takes, in the units of the row. The row's limit is moved by what its sum was wrong, and halfway
    to a limit known to be too wide or too narrow where that leads beyond it.

    Raises InfeasibleError where `solve` finds no plan, or none whose file is fast enough.
    """
    tried = _tried(solve, row, measured)
    kept = [entry for entry in tried if entry.used <= row.limit * _MARGIN]
    if kept:
        return max(kept, key=attrgetter("limit")).plan
    fastest = min(tried, key=attrgetter("used"))
    if fastest.used > row.limit:
        raise InfeasibleError(
            f"{row.name} cannot be met: the fastest file that the other budgets and options leave takes "
            f"{row.spell(fastest.used)}"
        )
    return fastest.plan


def _tried(solve: Solve, row: Row, measured: Callable[[Plan], float]) -> list[_Tried]:
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
        known = next((entry.used for entry in tried if entry.plan == plan), None)
        used = measured(plan) if known is None else known
        tried.append(_Tried(limit, plan, used))
        if target * _MARGIN <= used <= target:
            break
        low, high = (limit, high) if used <= target else (low, limit)
        limit *= target / used
        if not low < limit < high:
            limit = (low + high) / 2
    return tried
