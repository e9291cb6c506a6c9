"""Costs and budgets -> plan: the exact program, repeated where a budget can only be measured.

The bytes of a file and the loss of a network are no sums over layers. For a file budget the bytes besides
codes and scales are measured on the lowered plan and the program is solved again until the real file fits;
for a loss budget the smallest plan that keeps it is found by bisection on the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxmpq.allocate.knapsack import Table, allocate, check_feasible, forced_choice
from onnxmpq.budgets.budget import Budget, needing, tightest
from onnxmpq.budgets.kind import Known, Needs
from onnxmpq.budgets.row import Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.costs import CostTable
from onnxmpq.values.group import Unit
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan, stored_bytes, weight_bytes

_FILE_ROUNDS = 12
_FINE = 1.005  # ratio of bytes within which the smallest plan that keeps a loss is found

FileSize = Callable[[Plan], int]
Loss = Callable[[Plan], float]


def choose_plan(
    costs: CostTable,
    layers: Sequence[Layer],
    options: Options,
    budgets: Sequence[Budget],
    file_size: FileSize,
    loss: Loss,
    rows: Sequence[Row] = (),
) -> Plan:
    """The plan of least cost that meets every budget; with a loss budget, the smallest that meets them all.

    `rows` are limits besides the budgets that can be counted. `file_size` gives the bytes of a lowered plan,
    `loss` the measured loss of function in [0, 1]. Raises InfeasibleError with the least that can be reached.
    """
    table = [[costs.costs[layer.name][o] for o in options[layer.name]] for layer in layers]

    def solve(extra: Sequence[Row]) -> Plan:
        return _within_file(table, layers, options, budgets, file_size, [*rows, *extra])

    def solve_quantized(extra: Sequence[Row]) -> Plan:
        return solve([_no_float(layers, options), *extra])

    drop = tightest(budgets, Needs.LOSS)
    if drop is None:
        return solve(())
    try:
        return _smallest(solve_quantized, layers, options, drop, loss)
    except InfeasibleError:  # float layers, where there are any to be had, are the last resort
        if not any(_is_free(options[layer.name]) for layer in layers):
            raise
    return _smallest(solve, layers, options, drop, loss)


def _is_free(options: Sequence[Option]) -> bool:
    """True for a layer that may be quantized and may stay in float."""
    return len({option.is_quantized for option in options}) > 1


def _no_float(layers: Sequence[Layer], options: Options) -> Row:
    """A row that keeps every layer quantized that can be."""
    use = tuple(
        tuple(float(_is_free(options[layer.name]) and not o.is_quantized) for o in options[layer.name])
        for layer in layers
    )
    return Row("no layer in float", use, 0.5)


def to_plan(layers: Sequence[Layer], options: Options, choice: Sequence[int]) -> Plan:
    """The plan that takes the option at each index."""
    return Plan({layer.name: options[layer.name][index] for layer, index in zip(layers, choice, strict=True)})


def single(plan: Plan) -> Options:
    """The options of nothing but this plan."""
    return {name: (option,) for name, option in plan.options.items()}


def counts_fit(budgets: Sequence[Budget], units: Sequence[Unit], plan: Plan) -> bool:
    """True where a plan meets every budget that is a sum over its units, whatever its file."""
    rows = rows_of(budgets, units, single(plan), Known())
    return all(row.holds([0] * len(units)) for row in rows)


def file_fits(budgets: Sequence[Budget], plan: Plan, file_size: FileSize) -> bool:
    """True unless the plan's file is larger than a budget on its bytes."""
    file = tightest(budgets, Needs.FILE)
    return file is None or file_size(plan) <= file.limit


def cheapest(layers: Sequence[Layer], options: Options) -> Plan:
    """The plan of the fewest stored bytes."""
    return Plan({la.name: min(options[la.name], key=lambda o, la=la: stored_bytes(la, o)) for la in layers})  # type: ignore[misc]


def widest(layers: Sequence[Layer], options: Options) -> Plan:
    """The plan of the most precise options."""
    return Plan({layer.name: options[layer.name][-1] for layer in layers})


def require_kept(budget: Budget, lost: float) -> None:
    """Raise InfeasibleError where even the widest plan loses more than the budget allows."""
    if lost > budget.limit:
        raise InfeasibleError(
            f"budget {budget} cannot be met: the widest plan allowed may lose {lost:.2%}, one standard error of the "
            "samples set aside included; judge by more (--samples), allow more widths with --bits, or keep layers "
            "in float with --keep"
        )


def rows_of(budgets: Sequence[Budget], layers: Sequence[Unit], options: Options, known: Known) -> list[Row]:
    """Every budget that is a sum over layers of what is known."""
    rows = (budget.row(layers, options, known) for budget in budgets)
    return [row for row in rows if row is not None]


def least_rows(
    budgets: Sequence[Budget], layers: Sequence[Layer], options: Options, file_size: FileSize | None
) -> list[Row]:
    """As `rows_of`, with what the smallest file holds besides codes and scales; without `file_size`, no file's row."""
    known = Known()
    if file_size and needing(budgets, Needs.FILE):
        known = Known(_bytes_besides(layers, cheapest(layers, options), file_size))
    return rows_of(budgets, layers, options, known)


def forced_plan(
    budgets: Sequence[Budget], layers: Sequence[Layer], options: Options, file_size: FileSize | None
) -> Plan | None:
    """The only sensible plan, whatever the layers' costs; None where the budgets leave a choice.

    Unless every layer has one option only, a budget on what is measured leaves one, and so does one on the file's bytes
    as long as no `file_size` tells what it allows.
    """
    most = widest(layers, options)
    if all(len(options[layer.name]) == 1 for layer in layers):
        return most
    files = needing(budgets, Needs.FILE)
    if any(budget.is_measured for budget in budgets) or (files and file_size is None):
        return None
    known = Known(_bytes_besides(layers, most, file_size)) if files and file_size else Known()
    rows = rows_of(budgets, layers, options, known)
    choice = forced_choice([[0.0] * len(options[layer.name]) for layer in layers], rows)
    plan = None if choice is None else to_plan(layers, options, choice)
    # Of files only the widest plan's bytes are known here.
    return None if files and plan != most else plan


def _bytes_besides(layers: Sequence[Layer], plan: Plan, file_size: FileSize) -> float:
    """Bytes of a plan's file that are neither codes nor scales."""
    return float(file_size(plan) - weight_bytes(layers, plan))


def _within_file(
    table: Table,
    layers: Sequence[Layer],
    options: Options,
    budgets: Sequence[Budget],
    file_size: FileSize,
    extra: Sequence[Row],
) -> Plan:
    def rows(besides: float | None) -> list[Row]:
        return [*rows_of(budgets, layers, options, Known(besides)), *extra]

    file = tightest(budgets, Needs.FILE)
    if file is None:
        return to_plan(layers, options, allocate(table, rows(None)))
    least = cheapest(layers, options)
    besides = _bytes_besides(layers, least, file_size)
    check_feasible(rows(besides))
    for _ in range(_FILE_ROUNDS):
        try:
            choice = allocate(table, rows(besides))
        except InfeasibleError:
            break  # what other widths cost besides their codes leaves the least file only
        plan = to_plan(layers, options, choice)
        size = file_size(plan)
        if size <= file.limit:
            return plan
        besides = max(size - weight_bytes(layers, plan), besides + size - file.limit)
    return least


def plans_tried(layers: Sequence[Layer], options: Options) -> int:
    """About how many plans a budget on loss judges: the widest, the narrowest, and a bisection between them."""
    most, least = (weight_bytes(layers, end(layers, options)) for end in (widest, cheapest))
    ratio = most / max(least, 1)
    return 2 + math.ceil(math.log2(max(math.log(max(ratio, 1.0)) / math.log(_FINE), 1.0)))


def _smallest(
    solve: Callable[[Sequence[Row]], Plan],
    layers: Sequence[Layer],
    options: Options,
    budget: Budget,
    loss: Loss,
) -> Plan:
    """The least of the plans of least cost that keeps the loss, to half a percent of its bytes."""
    use = tuple(tuple(float(stored_bytes(la, o)) for o in options[la.name]) for la in layers)

    def within(limit: float) -> Plan | None:
        """The plan of least cost of so many weight bytes, if there is one and it keeps the loss."""
        try:
            plan = solve((Row(f"{limit:,.0f} weight bytes", use, limit),))
        except InfeasibleError:
            return None
        return plan if loss(plan) <= budget.limit else None

    best = solve(())
    require_kept(budget, loss(best))
    low = Row("", use, 0.0).least()
    least = within(low)
    if least is not None:
        return least
    high = float(weight_bytes(layers, best))
    while high > _FINE * low:
        middle = math.sqrt(low * high)
        plan = within(middle)
        if plan is None:
            low = middle
        else:
            best, high = plan, float(weight_bytes(layers, plan))
    return best
