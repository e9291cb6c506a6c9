"""The only module that imports cvxpy: numbers in, a choice out.

The multiple-choice knapsack: one option per group, least total cost, every budget a row.

    min  sum_g sum_o cost[g][o] x[g,o]
    s.t. sum_o x[g,o] = 1 for every g,   sum_g sum_o use_r[g][o] x[g,o] <= limit_r for every r,   x binary
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.budgets.row import SLACK, Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.arrays import Doubles

_EXACT = 1e-10  # the solver's own tolerance of rows, the least it takes
_FEW_OPTIONS = 600  # of which all are searched
_CORE = 200  # options besides one a group that are searched first
_WIDER = 4.0  # how much further where these are not enough
_NEAR = 1e-4  # of the least cost
_FAR = 100.0  # times what a known plan costs twice over: beyond it a cost among many sets too coarse a scale
_TOLERANCE = 1e-7  # of the solver, in units of the largest cost

Table = Sequence[Sequence[float]]


def allocate(costs: Table, rows: Sequence[Row]) -> tuple[int, ...]:
    """The index of the option of each group with the least total cost within every row.

    Exact up to some hundred options, and within a ten-thousandth above: HiGHS with the absolute gap at zero, since its defaults stop
    early on costs as small as KL sums, and costs scaled by the largest one that can matter; what is below its tolerance (1e-7 of that) it cannot tell
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
    cost, use = np.asarray(costs, np.float64), np.asarray(uses, np.float64).reshape(len(uses), len(costs))
    cheaper = cost[:, None] < cost[None, :]
    no_more = (use[:, :, None] <= use[:, None, :]).all(axis=0)
    return np.flatnonzero(~(cheaper & no_more).any(axis=0)).tolist()


def _solved(costs: Table, rows: Sequence[Row]) -> tuple[int, ...] | None:
    """The optimum, solved again for as long as costs that it cannot take set the scale of all.

    No optimum takes an option that alone costs more than a plan that is known.
    """
    far = _FAR if sum(map(len, costs)) > _FEW_OPTIONS else 1.0
    while (choice := _solve(costs, rows)) is not None:
        most = 2 * sum(options[index] for options, index in zip(costs, choice, strict=True))
        if most == 0 or max(map(max, costs)) <= far * most:
            break
        costs = tuple(tuple(min(cost, most) for cost in options) for options in costs)
    return choice


def _solve(costs: Table, rows: Sequence[Row]) -> tuple[int, ...] | None:
    cost, sizes = _flat(costs), [len(options) for options in costs]
    if not cost.any():  # nothing is known to cost anything: rather the wide options, which come last
        cost = _flat([range(size, 0, -1) for size in sizes])
    uses = np.array([_flat(row.use) / row.limit for row in rows]).reshape(len(rows), len(cost))
    chosen = _least(_Knapsack(cost, uses, np.repeat(np.arange(len(sizes)), sizes)))
    if chosen is None:
        return None
    return tuple((np.flatnonzero(chosen) - np.cumsum([0, *sizes[:-1]])).tolist())


@dataclass(frozen=True)
class _Knapsack:
    """Costs [options], the share of each row that an option uses [rows, options], and the group it is of [options]."""

    cost: Doubles
    uses: Doubles
    group: NDArray[np.intp]

    def among(self, kept: NDArray[np.bool_]) -> _Knapsack:
        """With some of the options only."""
        return _Knapsack(self.cost[kept], self.uses[:, kept], self.group[kept])


def _least(problem: _Knapsack) -> NDArray[np.bool_] | None:
    """The options of least cost, one a group; None where no choice keeps the rows.

    Of many options only the core is searched (Pisinger 1995 has it for one row): the linear relaxation tells what an option adds to
    the cost at least, and one that adds more than lies between the relaxation and a choice that is known is in no better choice. There
    a choice that costs a ten-thousandth more than the least will do: no cost is known so well.
    """
    every = np.ones(len(problem.cost), bool)
    if len(every) <= _FEW_OPTIONS:
        return _chosen(problem, every)
    relaxed = _relaxed(problem)
    if relaxed is None:
        return None
    least, added = relaxed
    tolerance = _TOLERANCE * problem.cost.max()
    most = np.sort(added)[min(problem.group[-1] + _CORE, len(added) - 1)]
    while True:
        core = added <= most
        chosen = _chosen(problem, core)
        if core.all():
            return chosen
        gap = np.inf if chosen is None else problem.cost[chosen].sum() - least
        if gap + tolerance <= most or gap <= _NEAR * least:
            return chosen
        most = max(_WIDER * most, tolerance) if chosen is None else gap + tolerance


def _chosen(problem: _Knapsack, kept: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The least cost among the options that are kept, exactly where all are few."""
    # cvxpy takes a second to import, and a compile that measures nothing does not need it.
    import cvxpy as cp

    if len(np.unique(problem.group[kept])) <= problem.group[-1]:
        return None
    choice = cp.Variable(int(kept.sum()), boolean=True)
    near = 0.0 if len(kept) <= _FEW_OPTIONS else _NEAR
    some = problem.among(kept)
    if not _is_solved(some, choice, _constraints(some, choice), mip_rel_gap=near, mip_abs_gap=0.0):
        return None
    chosen = np.zeros(len(kept), bool)
    chosen[_of_each_group(problem.group[kept], np.flatnonzero(kept), choice.value)] = True
    return chosen


def _of_each_group(group: NDArray[np.intp], places: NDArray[np.intp], values: Doubles) -> NDArray[np.intp]:
    """The places of the largest value of each group; groups stand in order."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    best = [int(np.argmax(own)) for own in np.split(values, starts[1:])]
    return np.asarray(places[starts + best])


def _relaxed(problem: _Knapsack) -> tuple[float, Doubles] | None:
    """The least cost where options may be mixed, and what each adds to it at least; None where no mixture keeps the rows."""
    import cvxpy as cp

    mixture = cp.Variable(len(problem.cost), nonneg=True)
    constraints = _constraints(problem, mixture)
    if not _is_solved(problem, mixture, constraints):
        return None
    scale = problem.cost.max() or 1.0  # of what was solved
    one, *others = (scale * np.atleast_1d(np.asarray(some.dual_value)) for some in constraints)
    added = problem.cost + one[problem.group]
    if others:
        added = added + np.concatenate(others) @ problem.uses
    return float(problem.cost @ mixture.value), np.maximum(added, 0.0)


def _constraints(problem: _Knapsack, choice: Any) -> list[Any]:
    """One option a group, and every row kept."""
    from scipy.sparse import csr_array

    count, options = problem.group[-1] + 1, len(problem.cost)
    groups = csr_array((np.ones(options), (problem.group, np.arange(options))), (count, options))
    return [groups @ choice == 1, *(use @ choice <= 1 + SLACK / 2 for use in problem.uses)]


def _is_solved(problem: _Knapsack, choice: Any, constraints: list[Any], **gaps: float) -> bool:
    """Solve for the choice; False where there is none."""
    import cvxpy as cp

    scaled = problem.cost / (problem.cost.max() or 1.0)
    found = cp.Problem(cp.Minimize(scaled @ choice), constraints)
    _prepare_highs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's advice on solver choice
        found.solve(solver=cp.HIGHS, mip_feasibility_tolerance=_EXACT, **gaps)
    return choice.value is not None


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
