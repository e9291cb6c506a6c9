import pytest

from onnxmpq.testing.models import example_layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.storage import average_bits, stored_bytes, weight_bytes

A = example_layer("a", "Conv", ("a",), "wa", (4, 5), 0)  # 20 weights, 4 channels
B = example_layer("b", "Gemm", ("b", "c"), "wb", (10, 8), 1)  # 80 weights, 8 channels
PLAN = Plan({"a": Option(8, 8), "b": Option(3, None)})


def test_codes_and_scales_are_counted() -> None:
    assert stored_bytes(A, Option(8)) == 20 + 16
    assert stored_bytes(A, Option(3)) == 8 + 16
    assert stored_bytes(A, Option(16)) == 40
    assert stored_bytes(A, Option(32)) == 80
    assert weight_bytes((A, B), PLAN) == 36 + 30 + 32


def test_the_average_is_over_weights() -> None:
    assert average_bits((A, B), PLAN) == pytest.approx((20 * 8 + 80 * 3) / 100)
