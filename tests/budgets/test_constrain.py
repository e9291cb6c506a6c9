import pytest

from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.constrain import average_bits, bops, constraint, reached, stored_bytes, weight_bytes
from onnxmpq.testing.models import layer_of
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan

A = layer_of("a", "Conv", ("a",), "wa", (4, 5), 0, macs=100)  # 20 weights, 4 channels
B = layer_of("b", "Gemm", ("b", "c"), "wb", (10, 8), 1, macs=80)  # 80 weights, 8 channels
LAYERS = (A, B)
PLAN = Plan({"a": Option(8, 8), "b": Option(3, None)})


def test_codes_and_scales_are_counted() -> None:
    assert stored_bytes(A, Option(8)) == 20 + 16
    assert stored_bytes(A, Option(3)) == 8 + 16
    assert stored_bytes(A, Option(16)) == 40
    assert stored_bytes(A, Option(32)) == 80
    assert weight_bytes(LAYERS, PLAN) == 36 + 30 + 32


def test_the_average_is_over_weights() -> None:
    assert average_bits(LAYERS, PLAN) == pytest.approx((20 * 8 + 80 * 3) / 100)


def test_float_activations_count_32_bits() -> None:
    assert bops(A, Option(8, 8)) == 100 * 8 * 8
    assert bops(B, Option(3)) == 80 * 3 * 32


@pytest.mark.parametrize(
    ("text", "value"),
    [("4bit-avg", 4.0), ("50%", 98 / 400), ("1kB", 1234.0), ("1MBOPs", 6400 + 7680.0), ("drop=1%", None)],
)
def test_what_a_plan_reached(text: str, value: float | None) -> None:
    found = reached(Budget.parse(text), LAYERS, PLAN, file_bytes=1234)
    assert found == (None if value is None else pytest.approx(value))


def test_a_row_holds_every_option_and_the_overhead_once() -> None:
    options: Options = {"a": (Option(2), Option(8)), "b": (Option(3),)}
    row = constraint(Budget.parse("1kB"), LAYERS, options, overhead=500)
    assert row is not None
    assert list(map(list, row.use)) == [[21 + 500, 36 + 500], [62]]
    assert row.least() == 583
