"""Swaps and the uniform plan: kept where the network as a whole is really better, and only within the budget."""

from collections.abc import Callable
from functools import partial

from onnxmpq.search.swaps import Search, improve, moves, uniform_plan
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

LAYERS = tuple(example_layer(name, "Conv", (name,), name, (4, 4, 1, 1), 0) for name in "abc")
OPTIONS = {la.name: (Option(2), Option(4), Option(8)) for la in LAYERS}
COSTS = CostTable({n: {Option(2): 4.0, Option(4): 1.0, Option(8): 0.0} for n in "abc"}, "kl", "test", 1)


def plan(*bits: int) -> Plan:
    return Plan({la.name: Option(b) for la, b in zip(LAYERS, bits, strict=True)})


def at_most(total: int) -> Callable[[Plan], bool]:
    return lambda some: sum(o.weight_bits for o in some.options.values()) <= total


def search(
    first: Plan,
    loss: Callable[[Plan], tuple[float, float]],
    total: int,
    trials: int,
    fits: Callable[[Plan], bool] = lambda _: True,
) -> Search:
    meets = at_most(total)
    uniform = uniform_plan(LAYERS, OPTIONS, meets)
    rivals = {"by size": plan(8, 2, 2)} | ({} if uniform is None else {"uniform": uniform})
    return improve(first, COSTS, LAYERS, OPTIONS, rivals, meets, fits, loss, trials, lambda _a, _b: None)


def test_the_uniform_plan_is_the_widest_that_fits() -> None:
    assert uniform_plan(LAYERS, OPTIONS, at_most(12)) == plan(4, 4, 4)
    assert uniform_plan(LAYERS, OPTIONS, at_most(23)) == plan(4, 4, 4)
    assert uniform_plan(LAYERS, OPTIONS, at_most(5)) is None
    fixed = {**OPTIONS, "a": (Option(8),)}
    assert uniform_plan(LAYERS, fixed, at_most(16)) == plan(8, 4, 4)
    wide = {**OPTIONS, "a": (Option(4), Option(8))}
    assert uniform_plan(LAYERS, wide, at_most(8)) == plan(4, 2, 2)


def test_the_uniform_plan_ships_where_it_is_better() -> None:
    found = search(plan(2, 2, 8), lambda p: (1.0, 1.0) if p == plan(4, 4, 4) else (2.0, 2.0), 12, 0)
    assert (found.plan, found.rival, found.before, found.after) == (plan(4, 4, 4), "uniform", 2.0, 1.0)


def test_the_best_of_the_rivals_ships() -> None:
    def loss(some: Plan, own: float = 2.0) -> tuple[float, float]:
        value = 0.5 if some == plan(8, 2, 2) else 1.0 if some == plan(4, 4, 4) else own
        return value, value

    found = search(plan(2, 2, 8), loss, 12, 0)
    assert (found.plan, found.rival) == (plan(8, 2, 2), "by size")
    assert search(plan(2, 2, 8), partial(loss, own=0.1), 12, 0).rival is None


def test_what_does_not_fit_the_file_is_passed_over_for_what_does() -> None:
    def loss(some: Plan) -> tuple[float, float]:
        value = float(sum((o.weight_bits - 4) ** 2 for o in some.options.values()))
        return value, value

    best = search(plan(2, 2, 8), loss, 12, 9)
    assert best.plan == plan(4, 4, 4)
    other = search(plan(2, 2, 8), loss, 12, 9, fits=lambda some: some != best.plan)
    assert other.plan not in (plan(2, 2, 8), best.plan)
    assert other.after < other.before


def test_a_better_swap_whose_file_does_not_fit_is_not_kept() -> None:
    def loss(some: Plan) -> tuple[float, float]:
        value = float(sum(o != Option(4) for o in some.options.values()))
        return value, value

    found = search(plan(2, 8, 2), loss, 12, 5, fits=lambda _: False)
    assert (found.plan, found.kept) == (plan(2, 8, 2), 0)
    assert found.tried > 0


def test_a_plan_without_numbers_is_worse_than_any() -> None:
    def loss(some: Plan) -> tuple[float, float]:
        value = float("nan") if some == plan(2, 2, 8) else 9.0
        return value, value

    assert search(plan(2, 2, 8), loss, 12, 0).plan != plan(2, 2, 8)


def test_a_uniform_plan_that_leaves_the_budget_unused_is_no_rival() -> None:
    found = search(plan(4, 4, 8), lambda p: (1.0, 1.0) if p == plan(4, 4, 4) else (2.0, 2.0), 16, 0)
    assert found.plan == plan(4, 4, 8)


def test_swaps_stay_within_the_budget_and_come_cheapest_first() -> None:
    costs = CostTable({**COSTS.costs, "b": {Option(2): 1.5, Option(4): 1.0, Option(8): 0.9}}, "kl", "test", 1)
    found = list(moves(plan(4, 4, 2), costs, OPTIONS, at_most(10)))
    assert found[0] == ("b", Option(2), "c", Option(4))
    assert all(at_most(10)(Plan({**plan(4, 4, 2).options, a: x, b: y})) for a, x, b, y in found)


def test_a_swap_that_helps_one_half_of_the_samples_only_is_not_kept() -> None:
    def loss(some: Plan) -> tuple[float, float]:
        return (0.5, 1.1) if some == plan(2, 4, 4) else (1.0, 1.0)

    found = search(plan(4, 2, 4), loss, 10, 5)
    assert (found.plan, found.kept) == (plan(4, 2, 4), 0)


def test_swaps_lead_to_the_best_plan() -> None:
    target = plan(2, 4, 8)

    def loss(some: Plan) -> tuple[float, float]:
        far = sum(abs(some[n].weight_bits - target[n].weight_bits) for n in "abc")
        return far, far

    found = search(plan(8, 4, 2), loss, 14, 30)
    assert found.plan == target
    assert 0 < found.kept <= found.tried <= 30
    assert found.after < found.before
