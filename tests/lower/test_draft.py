"""Drafts of plans: their layers, their constants, their bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.lower.channel_groups import part_of
from onnxmpq.lower.draft import Lowering
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

Lower = Callable[..., Lowering]


def plan_of(lowering: Lowering, bits: int) -> Plan:
    return Plan({layer.name: Option(bits) for layer in lowering.layers})


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
    first, *others = lowering.layers
    half = first.channels // 2
    units = [part_of(first, i, range(half * i, half * (i + 1))) for i in range(2)]
    bits = dict.fromkeys([la.name for la in others], 8) | {units[0].name: 4, units[1].name: 8}
    plan = Plan({name: Option(b) for name, b in bits.items()})
    over = lowering.over(Trajectory((plan,), (None,), "kl", "m", 1, layers=tuple(units)))
    assert over.layers == (*units, *others)
    assert [layer.part_of for layer in over.draft(plan).prepared.layers[:2]] == [first.name] * 2
    assert over.over(CostTable({}, "kl", "m", 1)) == lowering
