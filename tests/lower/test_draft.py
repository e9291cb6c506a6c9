"""Drafts of plans: their layers, their constants, their bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.lower.draft import Lowering
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.group import Group
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


def plan_of(lowering: Lowering, bits: int) -> Plan:
    return Plan({unit.name: Option(bits) for unit in lowering.units})


def test_a_draft_holds_what_would_ship(lower_classifier: Lower) -> None:
    lowering = lower_classifier()
    plan = plan_of(lowering, 4)
    draft = lowering.draft(plan)
    assert (draft.plan, draft.prepared.layers) == (plan, lowering.setting.prepared.layers)
    assert lowering.file_size(plan) == draft.written().ByteSize() < lowering.file_size(plan_of(lowering, 8))
    first = draft.prepared.layers[0]
    expected = lowering.candidates.quantized(first, 4).dequantize()
    np.testing.assert_array_equal(draft.constants[first.weight], expected)


def test_plans_over_groups_are_drafted_over_groups(lower_classifier: Lower) -> None:
    lowering = lower_classifier()
    first, *others = lowering.setting.prepared.layers
    half = first.channels // 2
    halves = tuple(range(half)), tuple(range(half, first.channels))
    groups = [Group(first, channels, i) for i, channels in enumerate(halves)]
    path = Trajectory((plan_of(lowering, 8),), (None,), "kl", "m", 1, groups={first.name: halves})
    over = lowering.over(path)
    assert over.units == (*groups, *others)
    plan = Plan({**plan_of(over, 8).options, groups[0].name: Option(4)})
    draft = over.draft(plan)
    assert (draft.units, draft.plan) == (over.units, plan)
    assert [layer.params for layer in draft.prepared.layers] == [unit.params for unit in over.units]
    assert over.draft(plan_of(over, 8)) == lowering.draft(plan_of(lowering, 8))
    assert over.over(CostTable({}, "kl", "m", 1)) == lowering


def test_a_file_is_timed_on_a_sample_or_a_batch_on_all_cores_or_one_thread(lower_classifier: Lower) -> None:
    lowering = lower_classifier()
    timer = lowering.timer(plan_of(lowering, 4))
    ways = [(False, None), (True, None), (False, 4)]
    assert all(timer.slowdown(on_one_thread=alone, batch=batch) > 0 for alone, batch in ways)
