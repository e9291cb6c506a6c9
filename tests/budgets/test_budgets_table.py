"""What every kind of budget counts, and what it says of it."""

import pickle

import pytest

from onnxmpq.budgets.bops import bops
from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.kind import Kind, Known, Outcome
from onnxmpq.budgets.table import EXAMPLES, KINDS
from onnxmpq.testing.models import example_layer
from onnxmpq.values.latency import Latency, TimeTable
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan
from onnxmpq.values.score import Score

A = example_layer("a", "Conv", ("a",), "wa", (4, 5), 0, macs=100)  # 20 weights, 4 channels
B = example_layer("b", "Gemm", ("b", "c"), "wb", (10, 8), 1, macs=80)  # 80 weights, 8 channels
OPTIONS: Options = {"a": (Option(2), Option(8)), "b": (Option(3),)}
TIMES = TimeTable({"a": {Option(2): 0.001, Option(8): 0.002}, "b": {Option(3): 0.004}}, fp32=0.01)
PLAN = Plan({"a": Option(8, 8), "b": Option(3, None)})
OUTCOME = Outcome((A, B), PLAN)
RUN = Outcome(
    (A, B), PLAN, 1234, {"fp32": Score(9, 0.9), "compiled": Score(9, 0.8)}, Latency(1, 0.02, 0.005, 4.0)
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_names_differ_and_kinds_travel_to_other_processes(kind: Kind) -> None:
    assert [other.name for other in KINDS].count(kind.name) == 1
    assert str(pickle.loads(pickle.dumps(kind))) == kind.name


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_parse(text: str) -> None:
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("4bit-avg", ((0.4, 1.6), (2.4,))),
        ("50%", ((21 / 400, 36 / 400), (62 / 400,))),
        ("1kB", ((21 + 500, 36 + 500), (62,))),
        ("1MBOPs", ((100 * 2 * 32, 100 * 8 * 32), (80 * 3 * 32,))),
        ("latency=0.7x", ((0.1, 0.2), (0.4,))),
        ("latency=5ms", ((1.0, 2.0), (4.0,))),
    ],
)
def test_a_row_holds_what_every_option_uses(text: str, use: tuple[tuple[float, ...], ...]) -> None:
    budget = Budget.parse(text)
    row = budget.row((A, B), OPTIONS, Known(500, TIMES))
    assert row is not None
    assert list(map(list, row.use)) == [pytest.approx(list(some)) for some in use]
    assert (row.name, row.limit) == (f"budget {text}", budget.limit)


@pytest.mark.parametrize("text", ["1kB", "drop=1%", "latency=0.7x", "latency=5ms"])
def test_what_is_not_known_yet_has_no_row(text: str) -> None:
    assert Budget.parse(text).row((A, B), OPTIONS, Known()) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4bit-avg", 4.0), ("50%", 98 / 400), ("1kB", 1234.0), ("1MBOPs", 6400 + 7680.0), ("drop=1%", 0.1),
        ("latency=0.7x", 0.25), ("latency=3ms", 5.0),
    ],
)  # fmt: skip
def test_what_a_file_reached(text: str, value: float) -> None:
    assert Budget.parse(text).reached(RUN) == pytest.approx(value)


@pytest.mark.parametrize("text", ["1kB", "drop=1%", "latency=0.7x", "latency=3ms"])
def test_what_was_not_measured_is_not_reached(text: str) -> None:
    assert Budget.parse(text).reached(OUTCOME) is None


def test_without_labels_classes_that_change_are_lost() -> None:
    scores = {"fp32": Score(9, None, 1.0), "compiled": Score(9, None, 0.75)}
    assert Budget.parse("drop=1%").reached(Outcome((A, B), PLAN, scores=scores)) == pytest.approx(0.25)


def test_float_activations_count_32_bits() -> None:
    assert bops(A, Option(8, 8)) == 100 * 8 * 8
    assert bops(B, Option(3)) == 80 * 3 * 32
