"""The only module that imports cvxpy: numbers in, a choice out.

The multiple-choice knapsack: one option per group, least total cost, every budget a row.

    min  sum_g sum_o cost[g][o] x[g,o]
    s.t. sum_o x[g,o] = 1 for every g,   sum_g sum_o use_r[g][o] x[g,o] <= limit_r for every r,   x binary
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from onnxmpq.budgets.row import SLACK, Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.arrays import Doubles

_EXACT = 1e-10  # the solver's own tolerance of rows, the least it takes

Table = Sequence[Sequence[float]]


def allocate(costs: Table, rows: Sequence[Row]) -> tuple[int, ...]:
    """The index of the option of each group with the least total cost within every row.

    Exact: HiGHS with both gaps at zero, since its defaults stop early on costs as small as KL sums, and
    costs scaled by the largest one that can matter; what is below its tolerance (1e-7 of that) it cannot tell
    apart. Rows are kept to far within SLACK: its default tolerance would pass plans that are 1e-6 over.

    Raises InfeasibleError with the least that each row can be.
    """
    check_feasible(rows)
    if not costs:
        return ()
    kept = [_useful(options, [row.use[g] for row in rows]) for g, options in enumerate(costs)]

    def narrowed(table: Table) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(own[i] for i in some) for own, some in zip(table, kept, strict=True))

    chosen = _solved(narrowed(costs), [replace(row, use=narrowed(row.use)) for row in rows])
    if chosen is None:
        raise InfeasibleError(
            "the budgets cannot be met together, though each can alone: "
            + "; ".join(f"{row.name} (the smallest is {row.spell(row.least())})" for row in rows)
        )
    return tuple(some[index] for some, index in zip(kept, chosen, strict=True))


def check_feasible(
    rows: Sequence[Row], looser: Iterable[tuple[str, Sequence[Row]]] = (), besides: str = ""
) -> None:
    """Raise InfeasibleError if some row cannot be met even by the cheapest options.

    `looser` are the same rows with more options, and in words what would allow them; it is read only where a row
    fails, and the message names those that would make the row smaller. `besides` is said behind them.
    """
    for index, row in enumerate(rows):
        least = row.least()
        if row.allows(least):
            continue
        would_be = ((words, others[index].least()) for words, others in looser)
        remedies = [f"; {words} it is {row.spell(less)}" for words, less in would_be if less < least]
        raise InfeasibleError(
            f"{row.name} cannot be met: the smallest this model gets is {row.spell(least)}{''.join(remedies)}"
            + besides
        )


def forced_choice(costs: Table, rows: Sequence[Row]) -> tuple[int, ...] | None:
    """The only sensible choice where the costs cannot matter, else None.

    Either the most precise option of every group (the last one) fits every row, or some row leaves no room
    for anything but its cheapest choice.
    """
    best = tuple(len(options) - 1 for options in costs)
    if all(row.holds(best) for row in rows):
        return best
    for row in rows:
        cheapest = tuple(int(np.argmin(options)) for options in row.use)
        steps = [sorted(options)[1] - min(options) for options in row.use if len(options) > 1]
        another = row.least() + min(steps, default=0.0)
        if not row.allows(another) and all(other.holds(cheapest) for other in rows):
            return cheapest
    return None


def _useful(costs: Sequence[float], uses: Sequence[Sequence[float]]) -> list[int]:
    """The options that some other one does not beat in cost while using no more of any row.

    No optimum takes the others; a cost that stands for "never" would set the scale of all.
    """
    return [
        i
        for i, cost in enumerate(costs)
        if not any(costs[j] < cost and all(use[j] <= use[i] for use in uses) for j in range(len(costs)))
    ]


def _solved(costs: Table, rows: Sequence[Row]) -> tuple[int, ...] | None:
    """The optimum, solved again for as long as costs that it cannot take set the scale of all.

    No optimum takes an option that alone costs more than a plan that is known.
    """
    while (choice := _solve(costs, rows)) is not None:
        most = 2 * sum(options[index] for options, index in zip(costs, choice, strict=True))
        capped = tuple(tuple(min(cost, most) for cost in options) for options in costs)
        if most == 0 or capped == costs:
            break
        costs = capped
    return choice


def _solve(costs: Table, rows: Sequence[Row]) -> tuple[int, ...] | None:
    # cvxpy takes a second to import, and a compile that measures nothing does not need it.
    import cvxpy as cp
    from scipy.linalg import block_diag

    cost, sizes = _flat(costs), [len(options) for options in costs]
    if not cost.any():  # nothing is known to cost anything: rather the wide options, which come last
        cost = _flat([range(size, 0, -1) for size in sizes])
    choice = cp.Variable(len(cost), boolean=True)
    constraints = [block_diag(*map(np.ones, sizes)) @ choice == 1]
    constraints += [(_flat(row.use) / row.limit) @ choice <= 1 + SLACK / 2 for row in rows]
    problem = cp.Problem(cp.Minimize((cost / (cost.max() or 1.0)) @ choice), constraints)
    _prepare_highs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's advice on solver choice
        problem.solve(solver=cp.HIGHS, mip_rel_gap=0.0, mip_abs_gap=0.0, mip_feasibility_tolerance=_EXACT)
    if choice.value is None:
        return None
    return tuple(int(np.argmax(own)) for own in np.split(choice.value, np.cumsum(sizes)[:-1]))


@cache
def _prepare_highs() -> None:
    """Keep it quiet, and make it work in forked processes.

    HiGHS 1.16 prints its name for the first solver of a process, in the constructor, before cvxpy can tell it not to.

    This one is the first, and tells itself not to: what it does last in its constructor is where the name is printed.
    """
    import highspy

    class Quiet(highspy.Highs):  # type: ignore[misc]
        def enableCallbacks(self) -> None:  # noqa: N802 - HiGHS's name
            self.setOptionValue("log_to_console", False)
            super().enableCallbacks()

    Quiet()
    if hasattr(
        os, "register_at_fork"
    ):  # a forked process has none of the threads that HiGHS believes to have
        os.register_at_fork(after_in_child=lambda: highspy.Highs.resetGlobalScheduler(False))


def _flat(table: Table) -> Doubles:
    """All entries in a row."""
    return np.concatenate([np.asarray(options, np.float64) for options in table])
