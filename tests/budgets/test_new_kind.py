"""A new kind of budget is one value: parsed, solved for and checked by code that does not know it.

(How it is shown: tests/present/test_console.py.)
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from onnxmpq.allocate.choose import choose_plan, forced_plan, least_rows
from onnxmpq.allocate.follow import follow
from onnxmpq.allocate.knapsack import allocate, check_feasible
from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.kind import Form, Kind, Known, Outcome, Use, percent
from onnxmpq.budgets.table import KINDS
from onnxmpq.errors import BudgetError, InfeasibleError, VerifyError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.group import Unit
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.verify.stage import budget_report


def _use(layers: Sequence[Unit], _known: Known) -> Use:
    macs = sum(layer.macs for layer in layers)
    return lambda layer, option: layer.macs / macs * (option.activation_bits == 16)


A16 = Kind(
    name="share of MACs with 16-bit inputs",
    forms=(Form("a16={}%", percent),),
    examples=("a16=15%",),
    misspelt=((r"(a|act)-?16[-=:]?#%?", "a16={number}%"),),
    use=_use,
    words=lambda reached, _limit: f"{reached:.1%} of all MACs",
)
TABLE = (*KINDS, A16)
BUDGET = Budget.parse("a16=15%", TABLE)
NARROW, WIDE = Option(8, 8), Option(8, 16)
LAYERS = tuple(
    example_layer(f"l{i}", "Conv", (f"l{i}",), f"w{i}", (4, 5), 0, macs=10 * i) for i in (1, 2, 3, 4)
)
OPTIONS = {layer.name: (NARROW, WIDE) for layer in LAYERS}
GAINS = {"l1": 3.0, "l2": 4.0, "l3": 5.0, "l4": 6.0}  # of 16 bits
COSTS = CostTable({name: {NARROW: gain, WIDE: 0.0} for name, gain in GAINS.items()}, "kl", "measured", 1)


def plan(*wide: str) -> Plan:
    return Plan({layer.name: WIDE if layer.name in wide else NARROW for layer in LAYERS})


def test_it_parses_and_spells() -> None:
    assert (BUDGET.kind, BUDGET.limit, str(BUDGET)) == (A16, 0.15, "a16=15%")
    assert BUDGET.spell(0.4) == "a16=40%"
    with pytest.raises(BudgetError, match=r"did you mean a16=15%\? .*, latency=0\.7x, a16=15%"):
        Budget.parse("act16 = 15", TABLE)
    with pytest.raises(BudgetError, match="not understood"):
        Budget.parse("a16=15%")


def test_it_is_solved_for() -> None:
    budget = Budget.parse("a16=40%", TABLE)
    row = budget.row(LAYERS, OPTIONS, Known())
    assert row is not None
    assert allocate([[gain, 0.0] for gain in GAINS.values()], [row]) == (1, 0, 1, 0)
    chosen = choose_plan(COSTS, LAYERS, OPTIONS, [budget], lambda _: 0, lambda _: 0.0)
    assert chosen == plan("l1", "l3")
    both = [budget, Budget.parse("8bit-avg")]
    assert choose_plan(COSTS, LAYERS, OPTIONS, both, lambda _: 0, lambda _: 0.0) == chosen


def test_a_path_is_followed_to_it() -> None:
    plans = (plan("l1", "l3", "l4"), plan("l1", "l4"), plan("l1"), plan())
    path = Trajectory(plans, (None,) * 4, "kl", "greedy", 1)
    assert follow(path, LAYERS, [BUDGET], lambda _: 0, lambda _: 0.0) == plan("l1")


def test_what_leaves_one_plan_or_none_is_told_before_anything_is_measured() -> None:
    assert forced_plan([Budget.parse("a16=5%", TABLE)], LAYERS, OPTIONS, None) == plan()
    assert forced_plan([BUDGET], LAYERS, OPTIONS, None) is None
    fixed = {**OPTIONS, "l4": (WIDE,)}
    with pytest.raises(InfeasibleError, match=r"a16=15% cannot be met: the smallest .* is a16=40%"):
        check_feasible(least_rows([BUDGET], LAYERS, fixed, None))


def test_it_is_reported() -> None:
    report = budget_report(BUDGET, Outcome(LAYERS, plan("l1")))
    assert (report.asked, report.kind, report.reached, report.met) == ("a16=15%", A16.name, 0.1, True)
    with pytest.raises(VerifyError, match=r"does not hold budget a16=15%: it reached 0\.4"):
        budget_report(BUDGET, Outcome(LAYERS, plan("l4")))
