"""Budgets that are no sums over layers: the file's bytes and the loss of function."""

import pytest

from onnxmpq.allocate.choose import choose_plan, forced_plan, widest
from onnxmpq.budgets.budget import Budget
from onnxmpq.errors import InfeasibleError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan, weight_bytes

LAYERS = tuple(example_layer(f"l{i}", "Conv", (f"l{i}",), f"w{i}", (8, 125), 0) for i in range(6))
OPTIONS = {layer.name: tuple(Option(b) for b in (2, 4, 8)) for layer in LAYERS}
COSTS = CostTable(
    {layer.name: {o: (i + 1) * 4.0 ** -o.weight_bits for o in OPTIONS[layer.name]} for i, layer in enumerate(LAYERS)},
    "kl", "measured", 1,
)  # fmt: skip


def file_size(plan: Plan) -> int:
    """Overhead grows with the number of different widths, as a real file's does."""
    return weight_bytes(LAYERS, plan) + 300 + 100 * len({o.weight_bits for o in plan.options.values()})


def loss(plan: Plan) -> float:
    return sum(COSTS.costs[name][option] for name, option in plan.options.items())


def choose(*budgets: str) -> Plan:
    return choose_plan(COSTS, LAYERS, OPTIONS, [Budget.parse(b) for b in budgets], file_size, loss)


@pytest.mark.parametrize("limit", [2500, 3000, 3500, 4200, 6000])
def test_the_real_file_stays_within_its_budget(limit: int) -> None:
    plan = choose(f"{limit}B")
    assert file_size(plan) <= limit
    assert file_size(plan) > limit - 900  # no byte worth a step is left


def test_a_file_too_small_says_the_least() -> None:
    with pytest.raises(
        InfeasibleError, match=r"budget 2000B cannot be met: the smallest this model gets is 2092B"
    ):
        choose("2000B")


def forced(*budgets: str) -> Plan | None:
    return forced_plan([Budget.parse(b) for b in budgets], LAYERS, OPTIONS, file_size)


def test_a_file_that_holds_the_widest_plan_leaves_no_choice() -> None:
    most = widest(LAYERS, OPTIONS)
    assert forced(f"{file_size(most)}B") == most
    assert forced(f"{file_size(most) - 1}B") is None
    assert forced("100kB", "4bit-avg") is None
    assert forced("100kB", "2bit-avg") is None  # the narrowest plan's file was not looked at
    assert forced("100kB", "drop=1%") is None


def test_several_budgets_hold_at_once() -> None:
    plan = choose("4bit-avg", "3000B")
    assert file_size(plan) <= 3000
    assert sum(o.weight_bits for o in plan.options.values()) <= 24


def test_a_loss_budget_gives_a_small_plan_that_keeps_it() -> None:
    plan = choose("drop=20%")
    assert loss(plan) <= 0.2
    assert weight_bytes(LAYERS, plan) < 0.75 * weight_bytes(
        LAYERS, Plan({n: o[-1] for n, o in OPTIONS.items()})
    )


def test_a_loss_that_no_plan_keeps_says_the_least() -> None:
    with pytest.raises(InfeasibleError, match="the widest plan allowed may lose"):
        choose("drop=0.001%")


def test_float_layers_are_the_last_resort_of_a_loss_budget() -> None:
    with_float = {name: (*choices, Option(32)) for name, choices in OPTIONS.items()}
    costs = CostTable({n: {**c, Option(32): 0.0} for n, c in COSTS.costs.items()}, "kl", "measured", 1)

    def loss_of(plan: Plan) -> float:
        return sum(costs.costs[name][option] for name, option in plan.options.items())

    def floats(word: str) -> int:
        plan = choose_plan(costs, LAYERS, with_float, [Budget.parse(word)], file_size, loss_of)
        assert loss_of(plan) <= Budget.parse(word).limit
        return sum(option == Option(32) for option in plan.options.values())

    assert floats("drop=20%") == 0
    assert 0 < floats("drop=0.01%") < len(LAYERS)


def test_a_layer_fixed_in_float_does_not_let_others_stay_in_float() -> None:
    layers = LAYERS[:3]
    options = {"l0": (Option(32),), **{name: (Option(4), Option(8), Option(32)) for name in ("l1", "l2")}}
    costs = {name: {o: 1 / o.weight_bits for o in choices} for name, choices in options.items()}
    seen: list[Plan] = []

    def loss_of(plan: Plan) -> float:
        seen.append(plan)
        return float(min(plan["l1"].weight_bits, plan["l2"].weight_bits) < 8)

    table, budget = CostTable(costs, "kl", "measured", 1), Budget.parse("drop=1%")
    plan = choose_plan(table, layers, options, [budget], file_size, loss_of)
    assert plan.options == {"l0": Option(32), "l1": Option(8), "l2": Option(8)}
    assert all(some[name].is_quantized for some in seen for name in ("l1", "l2"))
