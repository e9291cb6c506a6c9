"""Samples by use: what judges is not what chose, as far as there are enough."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.context.splits import divide
from onnxmpq.data import Dataset, InputSpec, synthetic_data
from onnxmpq.data.evidence import Evidence
from onnxmpq.errors import InfeasibleError
from onnxmpq.request import Request, parse_budgets
from onnxmpq.values.effort import Effort

Ask = Callable[..., Request]

EFFORT = Effort("some", sensitivity=40, requantize=40, judge=40)


def evidence(count: int, training: Dataset | None = None) -> Evidence:
    data = synthetic_data([InputSpec("x", np.dtype(np.float32), (None, 3))], samples=count, seed=0)
    return Evidence(data, data, "noise", {}, batchable=True, training=training)


def places(data: Dataset) -> set[int]:
    return {int(place) for place in data.positions}


def test_one_sample_serves_all_uses_and_nothing_is_held_out(asked: Ask) -> None:
    found = evidence(1)
    splits = divide(found, asked(effort=EFFORT))
    data = found.calibration
    all_ = (splits.rounding, splits.sensitivity, splits.selection, splits.judging)
    assert all(s is data for s in all_)
    assert splits.held is None


def test_what_judges_a_search_never_saw_a_sensitivity(asked: Ask) -> None:
    splits = divide(evidence(100), asked(effort=EFFORT))
    assert splits.held is not None
    assert (splits.sensitivity.count, splits.held.count, splits.rounding.count) == (40, 60, 100)
    assert not places(splits.sensitivity) & places(splits.held)
    few = divide(evidence(60), asked(effort=EFFORT))  # no more than half are measured on
    assert few.held is not None
    assert (few.sensitivity.count, few.held.count) == (30, 30)
    assert not places(few.sensitivity) & places(few.held)


@pytest.mark.parametrize(("count", "judge"), [(2, 1), (9, 4), (60, 30), (100, 40)])
def test_files_are_judged_on_some_of_the_samples(asked: Ask, count: int, judge: int) -> None:
    splits = divide(evidence(count), asked(effort=EFFORT))
    assert splits.judging.count == judge
    assert places(splits.judging) <= places(splits.rounding)


def test_one_batch_of_a_fixed_size_is_not_divided(asked: Ask) -> None:
    found = evidence(16)
    data = found.calibration
    whole = replace(data, source=replace(data.source, step=data.count))
    splits = divide(replace(found, calibration=whole), asked(effort=EFFORT))
    assert splits.judging is whole


def test_a_loss_is_judged_on_samples_of_its_own(asked: Ask) -> None:
    splits = divide(evidence(100), asked(effort=EFFORT, budgets=parse_budgets(["drop=5%"])))
    assert (splits.selection.count, splits.rounding.count, splits.sensitivity.count) == (50, 50, 25)
    assert not places(splits.selection) & places(splits.rounding)


def test_training_is_on_what_was_given_for_it(asked: Ask) -> None:
    given = evidence(7).calibration
    assert divide(evidence(100, given), asked()).training is given
    splits = divide(evidence(100), asked())
    assert splits.training is splits.rounding
    limited = divide(evidence(100), asked(effort=EFFORT, budgets=parse_budgets(["drop=5%"])))
    assert not places(limited.training) & places(limited.selection)


def test_a_seed_divides_in_one_way(asked: Ask) -> None:
    first, again, other = (divide(evidence(100), asked(effort=EFFORT, seed=seed)) for seed in (0, 0, 1))
    assert places(first.sensitivity) == places(again.sensitivity) != places(other.sensitivity)


def test_a_loss_that_one_sample_would_exceed_is_refused_at_once(asked: Ask) -> None:
    drop = asked(effort=EFFORT, budgets=parse_budgets(["drop=1%", "drop=3%"]))
    with pytest.raises(
        InfeasibleError,
        match=r"drop=1% cannot be told from the 99 .* one of them is 1\.01%.*give 200 or more",
    ):
        divide(evidence(198), drop)
    assert divide(evidence(200), drop).selection.count == 100


@pytest.mark.parametrize("limit", ["7", "0.45", "3", "0.7", "33"])
def test_as_many_samples_as_are_asked_for_do(asked: Ask, limit: str) -> None:
    drop = asked(effort=EFFORT, budgets=parse_budgets([f"drop={limit}%"]))
    with pytest.raises(InfeasibleError) as refused:
        divide(evidence(2), drop)
    wanted = re.search(r"give ([\d,]+) or more", str(refused.value))
    assert wanted is not None
    assert divide(evidence(int(wanted[1].replace(",", ""))), drop)
