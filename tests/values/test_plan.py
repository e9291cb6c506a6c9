import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import DataError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.option import Option, parse_option
from onnxmpq.values.plan import Plan, average_bits, stored_bytes, weight_bytes

ACTIVATIONS = st.sampled_from([None, 4, 8, 16])
OPTIONS = st.builds(Option, st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16, 32]), ACTIVATIONS) | st.builds(
    Option, st.integers(1, 3), ACTIVATIONS, st.sampled_from([4, 8])
)
COSTS = st.dictionaries(OPTIONS, st.floats(0, 1e30), min_size=1)
A = example_layer("a", "Conv", ("a",), "wa", (4, 5), 0)  # 20 weights, 4 channels
B = example_layer("b", "Gemm", ("b", "c"), "wb", (10, 8), 1)  # 80 weights, 8 channels
PLAN = Plan({"a": Option(8, 8), "b": Option(3, None)})


@given(OPTIONS)
def test_an_option_prints_back(option: Option) -> None:
    assert parse_option(str(option)) == option


@given(st.dictionaries(st.text(), COSTS))
def test_a_cost_table_survives_json(costs: dict[str, dict[Option, float]]) -> None:
    table = CostTable(costs, "kl", "measured", 3)
    assert CostTable.from_json(table.to_json()) == table


@given(st.lists(OPTIONS, min_size=1, max_size=5), st.floats(0) | st.none())
def test_a_path_survives_json(options: list[Option], loss: float | None) -> None:
    plans = tuple(Plan({"a": option, "b": Option(8)}) for option in options)
    path = Trajectory(plans, (loss,) * len(plans), "kl", "greedy", 3, 55, {"c": ((0, 2), (1,))})
    assert Trajectory.from_json(path.to_json()) == path


def test_groups_are_read_from_files_of_older_versions() -> None:
    path = Trajectory(
        (Plan({"a/part0": Option(8), "a/part1": Option(4), "b": Option(4)}),), (None,), "kl", "m", 3
    )
    layers = [
        {"name": "a/part0", "part": [0, 2], "part_of": "a"}, {"name": "a/part1", "part": [1], "part_of": "a"},
        {"name": "b", "part": [], "part_of": None},
    ]  # fmt: skip
    fields = json.loads(path.to_json())
    del fields["groups"]
    found = Trajectory.from_json(json.dumps({**fields, "layers": layers}))
    assert found == replace(path, groups={"a": ((0, 2), (1,))})


@pytest.mark.parametrize(
    ("plans", "losses", "message"),
    [
        ((), (), "0 plans"),
        ((Plan({"a": Option(8)}),), (), "0 losses"),
        ((Plan({"a": Option(8)}), Plan({"b": Option(4)})), (None, 0.1), "differ in their layers"),
    ],
)
def test_a_path_decides_every_layer_in_every_plan(
    plans: tuple[Plan, ...], losses: tuple[float | None, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Trajectory(plans, losses, "kl", "greedy", 1)


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_a_cost_is_finite_and_not_negative(cost: float) -> None:
    with pytest.raises(DataError, match="finite and not negative"):
        CostTable({"conv": {Option(4): cost}}, "kl", "measured", 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan"'])
def test_other_files_are_no_path(text: str) -> None:
    with pytest.raises(DataError, match="path of plans"):
        Trajectory.from_json(text)


@pytest.mark.parametrize("text", ["0", "9", "4/7", "/8", "int8", "4in4", "8in4", "3in5", "fp16in8", "4in"])
def test_other_words_are_no_option(text: str) -> None:
    with pytest.raises(DataError, match="is not a width"):
        parse_option(text)


def test_codes_and_scales_are_counted() -> None:
    assert stored_bytes(A, Option(8)) == 20 + 16
    assert stored_bytes(A, Option(3)) == 8 + 16
    assert stored_bytes(A, Option(16)) == 40
    assert stored_bytes(A, Option(32)) == 80
    assert weight_bytes((A, B), PLAN) == 36 + 30 + 32


def test_the_average_is_over_weights() -> None:
    assert average_bits((A, B), PLAN) == pytest.approx((20 * 8 + 80 * 3) / 100)
