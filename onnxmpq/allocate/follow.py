"""A search's path and budgets -> plan: the first plan on the way down that meets them all."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

from onnxmpq.allocate.choose import require_kept
from onnxmpq.budgets.budget import Budget, tightest
from onnxmpq.budgets.kind import Needs, Outcome
from onnxmpq.budgets.row import amount
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.group import Unit
from onnxmpq.values.plan import Plan


def follow(
    path: Trajectory,
    units: Sequence[Unit],
    budgets: Sequence[Budget],
    file_size: Callable[[Plan], int],
    loss: Callable[[Plan], float],
) -> Plan:
    """The first plan that meets every budget; with a loss budget, the last one that keeps it.

    `file_size` gives the bytes of a lowered plan, `loss` the measured loss of function in [0, 1]; both are asked
    for a few plans only, since a path's files shrink, and its losses grow, as it goes on.
    Raises InfeasibleError with the least that the path reaches.
    """
    start = 0
    # Files last: unlike sums over units, they need not shrink at every step, and so are looked at where they count.
    for budget in sorted(budgets, key=lambda budget: budget.needs is Needs.FILE):
        if budget.needs is not Needs.LOSS:
            start += _first(path.plans[start:], units, budget, file_size)
    drop = tightest(budgets, Needs.LOSS)
    if drop is None:
        return path.plans[start]
    left = path.plans[start:]
    lost = cache(lambda index: loss(left[index]))
    kept = bisect_left(range(len(left)), True, key=lambda index: lost(index) > drop.limit)
    if kept == 0:
        require_kept(drop, lost(0))
    return left[kept - 1]


def _first(
    plans: Sequence[Plan], units: Sequence[Unit], budget: Budget, file_size: Callable[[Plan], int]
) -> int:
    """The index of the first plan within a budget, as far as bisection tells."""

    def use(plan: Plan) -> float:
        file_bytes = file_size(plan) if budget.needs is Needs.FILE else None
        return budget.reached(Outcome(units, plan, file_bytes)) or 0.0

    found = bisect_left(plans, True, key=lambda plan: budget.allows(use(plan)))
    if found == len(plans):
        raise InfeasibleError(
            f"budget {budget} ({budget.kind}) cannot be met: at most {amount(budget.limit)} was asked, the least "
            f"that the method's path reaches is {amount(use(plans[-1]))}"
        )
    return found
