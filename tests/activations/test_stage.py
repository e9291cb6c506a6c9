"""Which layers of a network go back to float, and what becomes of its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.activations import stage
from onnxmpq.activations.by_loss import Layers
from onnxmpq.activations.stage import COSTLY, Choice, choose_activations
from onnxmpq.allocate.stage import allocate
from onnxmpq.check.stage import narrowed
from onnxmpq.lower.draft import Lowering, Timer
from onnxmpq.request import parse_budgets
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.sensitivity.stage import measure

Lower = Callable[..., Lowering]


@pytest.fixture
def planned(lower_classifier: Lower) -> Callable[..., Choice]:
    """A plan as it is before anything was said of activations."""

    def plan(budget: str = "5bit-avg") -> Choice:
        lowering = lower_classifier(
            activations="auto", method=METHODS["measured"], budgets=parse_budgets([budget])
        )
        costs = measure(lowering.setting, lowering.candidates)
        return Choice(lowering, costs, allocate(lowering, costs, None))

    return plan


def finding(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these layers be the costly ones."""
    monkeypatch.setattr(stage, "costly_layers", lambda _choice: Layers(names))


def test_all_layers_start_in_integers(planned: Callable[..., Choice]) -> None:
    choice = planned()
    assert choice.integer == {layer.name for layer in choice.lowering.setting.prepared.layers}


@pytest.fixture
def changed(planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch) -> tuple[Choice, Choice, str]:
    """A choice before and after one of its layers was found costly, and that layer."""
    before = planned()
    name = min(before.integer)
    finding(monkeypatch, name)
    return before, choose_activations(before), name


def test_a_costly_layer_computes_in_float_at_its_width(changed: tuple[Choice, Choice, str]) -> None:
    before, after, name = changed
    assert after.integer == before.integer - {name}
    assert after.plan[name].weight_bits == before.plan[name].weight_bits
    assert all(after.plan[n] == before.plan[n] for n in after.integer)
    draft = after.lowering.draft(after.plan)
    assert draft.placement.float_layers == {name: COSTLY}
    assert any(COSTLY in note for note in after.lowering.setting.stages.notes)


def test_its_options_and_costs_are_those_of_float(changed: tuple[Choice, Choice, str]) -> None:
    _, after, name = changed
    options = after.lowering.setting.options[name]
    assert {option.activation_bits for option in options} == {None}
    assert set(after.costs.costs[name]) == set(options)  # type: ignore[union-attr]


def test_layers_that_were_in_float_before_keep_their_reason(planned: Callable[..., Choice]) -> None:
    choice = planned()
    first, second, *others = sorted(choice.integer)
    setting = choice.lowering.setting
    placement = replace(
        setting.quantized.placement,
        integer_layers=(second, *others),
        float_layers={first: "one scale ruins it"},
    )
    known = replace(setting, quantized=replace(setting.quantized, placement=placement))
    plan = choice.in_float([first])
    fewer = Choice(replace(choice.lowering, setting=known), choice.costs, plan).without(
        Layers([second]), COSTLY
    )
    found = fewer.lowering.draft(fewer.plan).placement.float_layers
    assert found == {first: "one scale ruins it", second: COSTLY}


def test_a_file_stays_within_its_bytes(
    planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = planned()
    limit = wide.lowering.file_size(wide.plan)
    before = planned(f"{limit}B")
    finding(monkeypatch, min(before.integer))
    after = choose_activations(before)
    assert after.lowering.file_size(after.plan) <= limit


def test_what_a_budget_on_operations_allows_stays(
    planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float a layer's operations count 32 bits for 8."""
    roomy = planned("99GBOPs")
    used = sum(
        layer.macs * roomy.plan[layer.name].weight_bits * 8
        for layer in roomy.lowering.setting.prepared.layers
    )
    before = planned(f"{used * 1.01 / 1e9}GBOPs")
    finding(monkeypatch, *before.integer)
    assert choose_activations(before).integer == before.integer


def test_slow_layers_are_looked_for_where_the_file_gains_little(
    planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = planned()
    finding(monkeypatch)
    monkeypatch.setattr(stage, "lost_by_integers", lambda _choice: 0.0)
    monkeypatch.setattr(stage, "is_timed", lambda _setting: True)
    monkeypatch.setattr(stage, "timed", lambda _choice: None)
    name = min(choice.integer)
    monkeypatch.setattr(stage, "slower", lambda _times, _integer: Layers([name]))
    for slowdown, left in ((0.5, choice.integer), (0.95, choice.integer - {name}), (1.2, Layers())):
        monkeypatch.setattr(Timer, "slowdown", lambda _self, found=slowdown, **_: found)
        assert choose_activations(choice).integer == left


def test_a_file_that_gains_little_does_not_lose_its_function(
    planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = planned()
    finding(monkeypatch)
    monkeypatch.setattr(stage, "is_timed", lambda _setting: True)
    monkeypatch.setattr(stage, "timed", lambda _choice: None)
    monkeypatch.setattr(stage, "slower", lambda _times, _integer: Layers())
    unknown = stage.much(choice) + 1
    for slowdown, lost, left in (
        (0.95, unknown, Layers()),
        (0.95, 0.0, choice.integer),
        (0.5, unknown, choice.integer),
    ):
        monkeypatch.setattr(Timer, "slowdown", lambda _self, found=slowdown, **_: found)
        monkeypatch.setattr(stage, "lost_by_integers", lambda _choice, found=lost: found)
        assert choose_activations(choice).integer == left


@pytest.mark.parametrize(
    ("on_one_thread", "on_all_cores", "in_a_batch", "is_slower"),
    [(1.2, 0.9, 0.9, True), (0.8, 0.9, 0.7, False), (0.8, 1.1, 0.9, True), (0.8, 0.8, 1.2, True)],
)
def test_a_file_is_slower_that_is_so_on_one_thread_on_all_cores_or_in_a_batch(
    planned: Callable[..., Choice],
    monkeypatch: pytest.MonkeyPatch,
    on_one_thread: float,
    on_all_cores: float,
    in_a_batch: float,
    is_slower: bool,
) -> None:
    alone = on_one_thread

    def slowdown(_self: Timer, on_one_thread: bool = False, batch: int | None = None) -> float:
        return alone if on_one_thread else on_all_cores if batch is None else in_a_batch

    monkeypatch.setattr(stage, "is_timed", lambda _setting: True)
    monkeypatch.setattr(Timer, "slowdown", slowdown)
    assert stage.takes(planned(), 1.0) is is_slower


@pytest.fixture
def of_one_plan(lower_classifier: Lower) -> Choice:
    """The only sensible plan of 8 bits: in integers of 7, which every CPU adds up exactly."""
    budgets = parse_budgets(["8bit-avg"])
    lowering = lower_classifier(activations="auto", rounding="compensated", budgets=budgets, widths=(4, 8))
    lowering = narrowed(lowering)
    costs = measure(lowering.setting, lowering.candidates)
    return Choice(lowering, costs, allocate(lowering, costs, None))


def test_what_goes_to_float_has_the_longest_codes_that_were_asked_for(
    of_one_plan: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = min(of_one_plan.integer)
    finding(monkeypatch, name)
    after = choose_activations(of_one_plan)
    assert of_one_plan.plan[name].weight_bits == 7
    assert str(after.plan[name]) == "8"
    assert all(str(after.plan[other]) == "7/8" for other in after.integer)


def test_longer_codes_are_those_of_a_compile_in_float(
    of_one_plan: Choice, lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = min(of_one_plan.integer)
    finding(monkeypatch, name)
    after = choose_activations(of_one_plan).lowering
    plain = lower_classifier(activations="fp32", rounding="compensated", widths=(8,))
    layer = next(layer for layer in after.setting.prepared.layers if layer.name == name)
    wanted = plain.candidates.quantized(layer, 8)
    found = after.candidates.quantized(layer, 8)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_array_equal(found.scale, wanted.scale)
    assert not np.array_equal(
        found.codes, quantize(after.candidates.constants(layer, 32)[layer.weight], layer.axis, 8).codes
    )


def test_longer_codes_stay_within_a_files_bytes(of_one_plan: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network as small as this one codes of 8 bits take less than what unpacks 7: bytes here are bits."""
    monkeypatch.setattr(
        Lowering, "file_size", lambda _self, plan: sum(o.weight_bits for o in plan.options.values())
    )
    name, lowering = min(of_one_plan.integer), of_one_plan.lowering
    limit = lowering.file_size(of_one_plan.plan)
    constraints = replace(lowering.setting.request.constraints, budgets=parse_budgets([f"{limit}B"]))
    request = replace(lowering.setting.request, constraints=constraints)
    finding(monkeypatch, name)
    tight = replace(lowering, setting=replace(lowering.setting, request=request))
    assert str(choose_activations(replace(of_one_plan, lowering=tight)).plan[name]) == "7"


def test_ranges_are_found_at_run_time_where_that_loses_less_and_takes_no_longer(
    planned: Callable[..., Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = planned()
    name = min(choice.integer)
    monkeypatch.setattr(stage, "dynamic_layers", lambda _choice: Layers([name]))
    monkeypatch.setattr(stage, "is_timed", lambda _setting: True)
    for lost, slower, dynamic in ((0.1, False, {name}), (0.1, True, set()), (0.9, False, set())):

        def losses_of(some: Choice, lost: float = lost) -> Callable[[Layers], float]:
            own = lost if some.lowering.setting.quantized.dynamic else 1.0
            return lambda floats: 0.0 if name in floats else own

        monkeypatch.setattr(stage, "losses_of", losses_of)
        monkeypatch.setattr(stage, "is_slower", lambda _found, _choice, found=slower: found)
        assert stage.with_dynamic_ranges(choice).lowering.setting.quantized.dynamic == dynamic


def test_codes_that_other_kernels_make_keep_their_ranges(planned: Callable[..., Choice]) -> None:
    assert stage.dynamic_layers(planned()) == Layers()
