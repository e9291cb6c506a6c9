"""What methods give, made whole; and what they may not give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest

from onnxmpq.check.stage import narrowed
from onnxmpq.errors import OptionError
from onnxmpq.lower.draft import Lowering
from onnxmpq.request import parse_budgets
from onnxmpq.sensitivity import stage
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.stage import float_rivals, measure, probe_of, whole_path, whole_table
from onnxmpq.values.costs import UNMEASURED, CostTable, Trajectory
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


def test_options_that_were_not_measured_cost_nothing() -> None:
    options = {"a": (Option(4), Option(8), Option(32)), "b": (Option(8),)}
    found = whole_table(CostTable({"a": {Option(4): 2.0, Option(8): 1.0}}, "kl", "m", 1), options)
    assert found.costs == {"a": {Option(4): 2.0, Option(8): 1.0, Option(32): 0.0}, "b": {Option(8): 0.0}}


def test_a_path_gets_the_layers_that_have_no_choice() -> None:
    path = Trajectory((Plan({"a": Option(8)}), Plan({"a": Option(4)})), (None, None), "kl", "m", 1)
    found = whole_path(path, {"a": (Option(4), Option(8)), "b": (Option(16),)})
    assert [plan["b"] for plan in found.plans] == [Option(16)] * 2


def test_a_path_over_groups_of_a_layer_says_nothing_of_the_layer_itself() -> None:
    plans = tuple(Plan({"a/part0": Option(8), "a/part1": Option(bits)}) for bits in (8, 4))
    path = Trajectory(plans, (None, None), "kl", "m", 1, groups={"a": ((0,), (1, 2))})
    found = whole_path(path, {"a": (Option(4), Option(8)), "b": (Option(16),)})
    assert [set(plan.options) for plan in found.plans] == [{"a/part0", "a/part1", "b"}] * 2
    assert found.groups == path.groups


def test_a_layer_without_a_choice_is_decided_as_a_whole() -> None:
    plan = Plan({"a/part0": Option(8), "a/part1": Option(4), "b": Option(4)})
    path = Trajectory((plan,), (None,), "kl", "m", 1, groups={"a": ((0,), (1, 2))})
    found = whole_path(path, {"a": (Option(16),), "b": (Option(4), Option(8))})
    assert (found.plans, found.groups) == ((Plan({"a": Option(16), "b": Option(4)}),), {})


def test_what_rounded_inputs_cost_is_in_the_unit_of_the_table(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowering = lower_classifier()
    costs = {name: dict.fromkeys(choices, 0.0) for name, choices in lowering.setting.options.items()}
    units: list[str] = []

    def losses(probe: Probe, _read: object) -> dict[str, float]:
        units.append(probe.metric.name)
        return {}

    monkeypatch.setattr(stage, "asked", lambda *_: CostTable(costs, "kl", "m", 1))
    monkeypatch.setattr(stage, "float_rivals", lambda _: {"a": ("x", None)})
    monkeypatch.setattr(stage, "activation_losses", losses)
    measure(lowering.setting, lowering.candidates)
    assert lowering.setting.prepared.metric.name == "soft-kl"
    assert units == ["kl"]


def test_of_a_shared_weight_the_first_input_is_looked_at(lower_classifier: Lower) -> None:
    setting = lower_classifier(activations="int8", widths=(8, 32)).setting
    model = onnx.ModelProto()
    model.CopyFrom(setting.prepared.model)
    first = next(node for node in model.graph.node if node.output[0] == "c")
    model.graph.node.append(onnx.helper.make_node("Conv", ["e", first.input[1]], ["again"]))
    shared = replace(setting, prepared=replace(setting.prepared, model=model))
    assert float_rivals(shared) == float_rivals(setting)
    assert float_rivals(shared)["c"][0] == "b"


def broken(probe: Probe) -> CostTable:
    raise RuntimeError("disk on fire")


def test_a_method_that_fails_is_named(lower_classifier: Lower) -> None:
    failing, silent = lower_classifier(method=broken), lower_classifier(method=lambda _: None)
    with pytest.raises(OptionError, match="the method broken failed: RuntimeError: disk on fire"):
        measure(failing.setting, failing.candidates)
    with pytest.raises(OptionError, match="gave a NoneType; wanted a CostTable"):
        measure(silent.setting, silent.candidates)


def test_a_path_may_start_from_layers_left_as_they_are(lower_classifier: Lower) -> None:
    lowering = lower_classifier(
        method=METHODS["greedy"], widths=(4, 32), budgets=parse_budgets(["20bit-avg"])
    )
    probe = probe_of(lowering.setting, lowering.candidates)
    assert set(probe.options.values()) == {(Option(4),)}
    assert set(probe.untouched.values()) == {Option(32)}
    found = measure(lowering.setting, lowering.candidates)
    assert isinstance(found, Trajectory)
    assert [sum(o == Option(32) for o in plan.options.values()) for plan in found.plans] == [4, 3, 2, 1, 0]


def test_nothing_is_measured_where_one_plan_is_left(lower_classifier: Lower) -> None:
    lowering = lower_classifier(method=broken, budgets=parse_budgets(["8bit-avg"]))
    costs = measure(lowering.setting, lowering.candidates)
    assert isinstance(costs, CostTable)
    assert costs.method == UNMEASURED
    assert all(table == {Option(4): 1.0, Option(8): 0.0} for table in costs.costs.values())


def test_the_bytes_of_a_file_may_leave_one_plan(lower_classifier: Lower) -> None:
    lowering = lower_classifier(budgets=parse_budgets(["1MB"]))
    assert lowering.setting.forced is None
    assert lowering.setting.choices is lowering.setting.options
    after = narrowed(lowering).setting
    assert set(after.choices.values()) == {(Option(8),)}
    assert after.stages.notes[-1].startswith("sensitivity is not measured")
    assert narrowed(narrowed(lowering)).setting.choices == after.choices
