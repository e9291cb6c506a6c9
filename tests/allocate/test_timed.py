"""Latency budgets over made-up times."""

from collections.abc import Sequence

import pytest

from onnxmpq.allocate.choose import choose_plan
from onnxmpq.allocate.timed import Solve, time_row, within_time
from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.kind import Outcome
from onnxmpq.budgets.row import Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import CostTable
from onnxmpq.values.latency import Latency, TimeTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

LAYERS = tuple(example_layer(f"l{i}", "Conv", (f"l{i}",), f"w{i}", (8, 125), 0) for i in range(8))
INTEGER, WIDE, FLOAT = Option(4, 8), Option(8, 8), Option(32)
OPTIONS = {layer.name: (INTEGER, WIDE, FLOAT) for layer in LAYERS}
SECONDS = {INTEGER: 0.001, WIDE: 0.001, FLOAT: 0.003}
TABLE = TimeTable({layer.name: SECONDS for layer in LAYERS}, fp32=0.02)
COSTS = CostTable(
    {f"l{i}": {INTEGER: 2.0 + i, WIDE: 1.0 + i / 2, FLOAT: 0.0} for i in range(8)}, "kl", "measured", 1
)


def floats(plan: Plan) -> list[str]:
    return [name for name, option in plan.options.items() if option == FLOAT]


def seconds(plan: Plan) -> float:
    return sum(SECONDS[option] for option in plan.options.values())


def solve(rows: Sequence[Row]) -> Plan:
    return choose_plan(COSTS, LAYERS, OPTIONS, [], lambda _: 0, lambda _: 0.0, rows)


def timed(*budgets: str) -> tuple[Budget, Row]:
    return time_row([Budget.parse(b) for b in budgets], LAYERS, OPTIONS, TABLE)


def within(text: str, factor: float = 1.0, solve: Solve = solve) -> Plan:
    """The plan within a budget where files take `factor` times the sums of their layers."""
    budget, row = timed(text)

    def measured(plan: Plan) -> float:
        time = factor * seconds(plan)
        latency = Latency(1, TABLE.fp32, time, TABLE.fp32 / time)
        return budget.reached(Outcome(LAYERS, plan, latency=latency)) or 0.0

    return within_time(solve, row, measured)


@pytest.mark.parametrize(
    ("text", "limit", "use"),
    [("latency=0.7x", 0.7, (0.05, 0.05, 0.15)), ("latency=15ms", 15.0, (1.0, 1.0, 3.0))],
)
def test_a_row_is_in_the_units_of_its_budget(text: str, limit: float, use: tuple[float, ...]) -> None:
    budget, found = timed("4bit-avg", text)
    assert (str(budget), found.limit) == (text, limit)
    assert all(some == pytest.approx(use) for some in found.use)


def test_the_tightest_of_several_counts() -> None:
    assert str(timed("latency=0.7x", "latency=9ms", "latency=1x")[0]) == "latency=9ms"
    assert str(timed("latency=0.41x", "latency=9ms")[0]) == "latency=0.41x"


def test_too_little_says_the_least_measured() -> None:
    with pytest.raises(
        InfeasibleError, match=r"latency=0\.3x cannot be met: the least measured is 0\.400x, 8\.000 ms"
    ):
        timed("latency=0.3x")


def test_float_goes_where_it_is_worth_most() -> None:
    plan = within("latency=0.71x")
    assert floats(plan) == ["l6", "l7"]  # 8 ms, and 2 ms more for each within 14.2 ms less a margin
    assert set(plan.options.values()) == {WIDE, FLOAT}
    assert within("latency=14.2ms") == plan


def test_a_file_slower_than_its_sum_is_tried_again_with_fewer_float_layers() -> None:
    tried: list[Plan] = []

    def solve_and_tell(rows: Sequence[Row]) -> Plan:
        tried.append(solve(rows))
        return tried[-1]

    plan = within("latency=0.8x", 1.3, solve_and_tell)
    assert 1.3 * seconds(plan) <= 0.8 * TABLE.fp32
    assert len(floats(plan)) == max(n for n in range(9) if 1.3 * (8 + 2 * n) <= 0.98 * 16)
    assert len(floats(tried[0])) > len(floats(tried[-1]))


def test_a_file_faster_than_its_sum_may_hold_more_float_layers() -> None:
    plan = within("latency=0.6x", 0.7)
    assert len(floats(plan)) == max(n for n in range(9) if 0.7 * (8 + 2 * n) <= 0.98 * 12)


def test_a_limit_that_no_file_keeps_says_what_the_fastest_takes() -> None:
    with pytest.raises(
        InfeasibleError, match=r"latency=0\.5x cannot be met: the fastest file .* takes latency=0\.8x"
    ):
        within("latency=0.5x", 2)
    with pytest.raises(InfeasibleError, match=r"latency=15ms cannot be met: .* takes latency=16ms"):
        within("latency=15ms", 2)


def test_a_file_within_the_limit_but_not_the_margin_is_better_than_none() -> None:
    plan = within("latency=0.5x", 1.24)
    assert floats(plan) == []
    assert 0.98 * 10 < 1.24 * 8 <= 10


def test_other_budgets_may_leave_no_plan_within_the_margin_or_within_less() -> None:
    def slow(rows: Sequence[Row]) -> Plan:
        """At most six layers in integers, whatever is asked."""
        return solve([*rows, Row("integer layers", ((1.0, 1.0, 0.0),) * 8, 6.0)])

    for budget in ("latency=0.6x", "latency=0.61x"):  # 12 ms is the least
        assert len(floats(within(budget, solve=slow))) == 2
    assert len(floats(within("latency=0.7x", 1.14, slow))) == 2
    with pytest.raises(InfeasibleError, match=r"the fastest file .* takes latency=0\.72x"):
        within("latency=0.7x", 1.2, slow)
    with pytest.raises(
        InfeasibleError, match=r"together.*budget latency=0\.5x \(the smallest is latency=0\.4x\)"
    ):
        within("latency=0.5x", solve=slow)
