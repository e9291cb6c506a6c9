"""What may be searched, and which plans count as within the budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from onnxmpq.lower.draft import Lowering
from onnxmpq.metrics.network_evaluator import NetworkEvaluator
from onnxmpq.metrics.reference_outputs import Expected
from onnxmpq.request import parse_budgets
from onnxmpq.search import stage
from onnxmpq.search.stage import is_searched, judge, rivals, told, within
from onnxmpq.search.swaps import Search
from onnxmpq.sensitivity.methods import METHODS
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
    assert judge(lowering, plan)(plan) == (1.0, 2.0)
    first, second = ({row.tobytes() for some in half for row in some} for half in seen)
    assert first
    assert second
    assert not first & second


def test_a_search_is_told_without_its_plan(lower_classifier: Lower) -> None:
    report = told(Search(plan_of(lower_classifier(), 4), 2.0, 1.0, 5, 1, "the uniform plan"))
    assert report is not None
    assert (report.before, report.after, report.tried, report.kept, report.rival) == (
        2.0,
        1.0,
        5,
        1,
        "the uniform plan",
    )
    assert told(None) is None
