"""The first plan on a path that meets every budget, with few questions asked."""

import pytest

from onnxmpq.allocate.follow import follow
from onnxmpq.budgets.budget import Budget
from onnxmpq.errors import InfeasibleError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan, weight_bytes

LAYERS = tuple(example_layer(f"l{i}", "Conv", (f"l{i}",), f"w{i}", (8, 125), 0) for i in range(6))
PLANS = tuple(
    Plan({layer.name: Option(8 if i >= step else 4) for i, layer in enumerate(LAYERS)}) for step in range(7)
)
PATH = Trajectory(PLANS, (None, *(0.1 * i for i in range(1, 7))), "kl", "greedy", 10)


def index(*budgets: str) -> int:
    asked: list[Plan] = []

    def size(plan: Plan) -> int:
        asked.append(plan)
        return weight_bytes(LAYERS, plan) + 500

    def loss(plan: Plan) -> float:
        asked.append(plan)
        return 0.1 * sum(o.weight_bits == 4 for o in plan.options.values())

    plan = follow(PATH, LAYERS, [Budget.parse(b) for b in budgets], size, loss)
    assert len(asked) <= 3 * len(budgets)  # bisection: each question costs a file or a run of the network
    return PLANS.index(plan)


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (["8bit-avg"], 0),
        (["6bit-avg"], 3),
        (["5.9bit-avg"], 4),
        (["4bit-avg"], 6),
        (["6692B"], 0),
        (["6191B"], 2),
        (["6bit-avg", "6191B"], 3),
        (["drop=20%"], 2),
        (["drop=100%"], 6),
        (["drop=45%", "6bit-avg"], 4),
    ],
)
def test_the_first_plan_that_meets_all(budgets: list[str], expected: int) -> None:
    assert index(*budgets) == expected


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (["3bit-avg"], "the least that the method's path reaches is 4"),
        (["100B"], "at most 100 was asked, the least .* is 3,692"),
        (["drop=20%", "6bit-avg"], r"the widest plan allowed may lose 30\.00%"),
    ],
)
def test_what_the_path_does_not_reach_is_said(budgets: list[str], message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        index(*budgets)


def test_a_file_that_grows_on_the_way_is_looked_at_where_the_other_budgets_lead() -> None:
    widths = ((8, 8), (8, 4), (8, 2), (4, 4), (4, 2))
    plans = tuple(Plan({"l0": Option(first), "l1": Option(second)}) for first, second in widths)
    sizes = dict(zip(widths, (10, 5, 5, 7, 4), strict=True))

    def size(plan: Plan) -> int:
        return sizes[plan["l0"].weight_bits, plan["l1"].weight_bits]

    budgets = [Budget.parse("6B"), Budget.parse("4bit-avg")]
    path = Trajectory(plans, (None,) * 5, "kl", "greedy", 10)
    assert follow(path, LAYERS[:2], budgets, size, lambda _: 0.0) == plans[4]
