"""What may be searched, and which plans count as within the budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from onnxmpq.lower.draft import Lowering
from onnxmpq.metrics.network_evaluator import NetworkEvaluator
from onnxmpq.metrics.reference_outputs import Expected
from onnxmpq.request import parse_budgets
from onnxmpq.search import stage
from onnxmpq.search.stage import is_searched, judge, rivals, search, uniform_plan, within
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.testing.models import example_layer
from onnxmpq.values.arrays import Array
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


def plan_of(lowering: Lowering, bits: int, **others: int) -> Plan:
    return Plan({layer.name: Option(others.get(layer.name, bits)) for layer in lowering.units})


def test_only_plans_by_measured_costs_are_searched(lower_classifier: Lower) -> None:
    measured = METHODS["measured"]
    assert is_searched(lower_classifier(method=measured).setting)
    assert not is_searched(lower_classifier().setting)
    for budget in ("8bit-avg", "drop=20%"):  # nothing to choose, judged by runs
        assert not is_searched(lower_classifier(method=measured, budgets=parse_budgets([budget])).setting)


def test_plans_within_the_budgets(lower_classifier: Lower) -> None:
    lowering = lower_classifier(budgets=parse_budgets(["6bit-avg"]))
    meets = within(lowering.setting, plan_of(lowering, 4))
    assert meets(plan_of(lowering, 4))
    assert not meets(plan_of(lowering, 8))
    files = lower_classifier(budgets=parse_budgets(["1MB"]))
    assert not within(files.setting, plan_of(files, 4))(plan_of(files, 8))
    assert within(files.setting, plan_of(files, 8))(plan_of(files, 4))


def test_rivals_compute_as_the_plan_does(lower_classifier: Lower) -> None:
    lowering = lower_classifier(budgets=parse_budgets(["5bit-avg"]))
    plan = plan_of(lowering, 4)
    found = rivals(lowering, plan, within(lowering.setting, plan))
    assert set(found) == {"the uniform plan", "widths by the sizes of layers"}
    assert {o.weight_bits for o in found["the uniform plan"].options.values()} == {4}
    computed = {name: option.activation_bits for name, option in plan.options.items()}
    assert all({n: o.activation_bits for n, o in p.options.items()} == computed for p in found.values())


def test_a_rival_that_computes_otherwise_is_none(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowering = lower_classifier(budgets=parse_budgets(["5bit-avg"]))
    integers = Plan({layer.name: Option(8, 8) for layer in lowering.units})
    monkeypatch.setattr(stage, "uniform_plan", lambda *_: integers)
    plan = plan_of(lowering, 4)
    found = rivals(lowering, plan, within(lowering.setting, plan))
    assert set(found) == {"widths by the sizes of layers"}


def test_each_half_of_the_samples_judges_a_plan(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Any]] = []
    lowering = lower_classifier()

    def losses(_joint: NetworkEvaluator, _: Mapping[str, Array], expected: Iterable[Expected]) -> list[float]:
        seen.extend([batch.feeds["x"] for batch, _ in half.batches()] for half in expected)
        return [1.0, 2.0]

    monkeypatch.setattr(NetworkEvaluator, "losses", losses)
    plan = plan_of(lowering, 4)
    assert list(judge(lowering, plan)(plan)) == [1.0, 2.0]
    first, second = ({row.tobytes() for some in half for row in some} for half in seen)
    assert first
    assert second
    assert not first & second


LAYERS = tuple(example_layer(name, "Conv", (name,), name, (4, 4, 1, 1), 0) for name in "abc")
OPTIONS = {la.name: (Option(2), Option(4), Option(8)) for la in LAYERS}


def of_bits(*bits: int) -> Plan:
    return Plan({la.name: Option(b) for la, b in zip(LAYERS, bits, strict=True)})


def at_most(total: int) -> Callable[[Plan], bool]:
    return lambda some: sum(o.weight_bits for o in some.options.values()) <= total


def test_the_uniform_plan_is_the_widest_that_fits() -> None:
    assert uniform_plan(LAYERS, OPTIONS, at_most(12)) == of_bits(4, 4, 4)
    assert uniform_plan(LAYERS, OPTIONS, at_most(23)) == of_bits(4, 4, 4)
    assert uniform_plan(LAYERS, OPTIONS, at_most(5)) is None
    fixed = {**OPTIONS, "a": (Option(8),)}
    assert uniform_plan(LAYERS, fixed, at_most(16)) == of_bits(8, 4, 4)
    wide = {**OPTIONS, "a": (Option(4), Option(8))}
    assert uniform_plan(LAYERS, wide, at_most(8)) == of_bits(4, 2, 2)


@pytest.mark.parametrize(
    ("losses", "ships"),
    [
        ([(2.0, 2.0), (1.0, 1.0), (0.5, 0.5)], "second"),
        ([(2.0, 2.0), (0.5, 0.5), (1.0, 1.0)], "first"),
        ([(2.0, 2.0), (3.0, 3.0), (1.0, 2.5)], None),  # on one half of the samples only
        ([(math.nan, math.nan), (9.0, 9.0), (math.nan, 1.0)], "first"),
    ],
)
def test_the_best_rival_ships_that_betters_each_half(
    lower_classifier: Lower,
    monkeypatch: pytest.MonkeyPatch,
    losses: Sequence[tuple[float, float]],
    ships: str | None,
) -> None:
    lowering = lower_classifier(budgets=parse_budgets(["5bit-avg"]))
    last = lowering.units[-1].name
    plans = {
        "plan": plan_of(lowering, 4, **{last: 3}),
        "first": plan_of(lowering, 4),
        "second": plan_of(lowering, 5),
    }
    told = dict(zip(map(str, plans.values()), losses, strict=True))
    monkeypatch.setattr(stage, "judge", lambda *_: lambda some: told[str(some)])
    monkeypatch.setattr(stage, "rivals", lambda *_: {name: plans[name] for name in ("first", "second")})
    best, report = search(lowering, plans["plan"])
    assert best == plans[ships or "plan"]
    assert report.rival == ships
    assert [report.before, report.after] == pytest.approx(
        [sum(told[str(some)]) / 2 for some in (plans["plan"], best)], nan_ok=True
    )


@pytest.mark.parametrize(("bits", "limit"), [(8, "5bit-avg"), (2, "5bit-avg"), (4, "100B")])
def test_what_breaks_a_budget_or_leaves_some_of_it_is_no_rival(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch, bits: int, limit: str
) -> None:
    lowering = lower_classifier(budgets=parse_budgets([limit]))
    plan, other = plan_of(lowering, 4, **{lowering.units[-1].name: 5}), plan_of(lowering, bits)
    monkeypatch.setattr(stage, "judge", lambda *_: lambda some: (1.0, 1.0) if some == other else (2.0, 2.0))
    monkeypatch.setattr(stage, "rivals", lambda *_: {"other": other})
    assert search(lowering, plan)[0] == plan
