"""One importance a layer, turned into costs and into the relaxed program's path."""

from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

from onnxmpq.sensitivity import linear
from onnxmpq.sensitivity.linear import Importances, by_exact_program, by_relaxed_program, solved
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, probe_of
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.option import Option


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4, 8))


def known(values: dict[str, float]) -> Importances:
    return Importances(values, "importance", "m", 5, 1)


def test_a_bit_costs_its_layers_importance(probe: Probe) -> None:
    first, *others = probe.options
    found = by_exact_program(probe, known({first: 3.0, others[0]: 1.0}))
    assert found.costs[first] == {Option(2): 18, Option(3): 15, Option(4): 12, Option(8): 0}
    assert found.costs[others[-1]][Option(2)] == 12  # the mean of those that are known


def test_a_layer_left_as_it_is_loses_less_than_its_widest_codes(probe: Probe) -> None:
    first, *_ = probe.options
    free = replace(probe, untouched={first: Option(32)})
    assert by_exact_program(free, known({first: 3.0})).costs[first][Option(8)] == 3.0
    assert size(free).costs[first][Option(8)] == 0.5
    assert size(probe).costs[first][Option(8)] == 0


def test_a_program_gives_costs_or_a_path(probe: Probe) -> None:
    importance = known(dict.fromkeys(probe.options, 1.0))
    assert isinstance(solved("exact", probe, importance), CostTable)
    assert isinstance(solved("searched", probe, importance), Trajectory)


@pytest.mark.parametrize("within", [False, True])
def test_the_path_goes_from_the_widest_to_the_narrowest_and_never_back(probe: Probe, within: bool) -> None:
    importance = {name: 0.1 * (i + 1) for i, name in enumerate(probe.options)}
    plans = by_relaxed_program(probe, known(importance), within=within).plans
    widths = [[option.weight_bits for option in plan.options.values()] for plan in plans]
    assert all(sum(a != b for a, b in zip(one, two, strict=True)) == 1 for one, two in pairwise(widths))
    assert set(widths[0]) == {8}
    assert set(widths[-1]) == {2}
    assert all(
        after <= before for one, two in pairwise(widths) for before, after in zip(one, two, strict=True)
    )


def test_a_width_that_was_given_up_is_not_taken_back(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    solutions = count()

    def relaxed(importance: Any, *_rest: Any) -> Any:
        return np.full(len(importance), (4.0, 2.0)[next(solutions) % 2])

    monkeypatch.setattr(linear, "relaxed_widths", relaxed)
    plans = by_relaxed_program(probe, known(dict.fromkeys(probe.options, 1.0)), within=False).plans
    sums = [sum(option.weight_bits for option in plan.options.values()) for plan in plans]
    layers = len(probe.options)
    assert next(solutions) > 2
    from_8, from_4 = (
        [bits * layers - less * i for i in range(layers + 1)] for bits, less in ((8, 4), (4, 2))
    )
    assert sums == from_8 + from_4[1:]
