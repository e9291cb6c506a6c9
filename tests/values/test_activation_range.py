import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import INT8, ActivationRange, range_of, rounded
from onnxmpq.values.arrays import Array

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def dequantized(activation: ActivationRange, values: Array) -> Array:
    codes = np.clip(np.rint(values / activation.scale) + activation.zero_point, 0, 255)
    return np.asarray((codes - activation.zero_point) * activation.scale)


@given(FINITE, FINITE)
def test_the_range_holds_zero_exactly_and_its_ends_to_a_step(a: float, b: float) -> None:
    low, high = sorted((a, b))
    activation = range_of(low, high)
    assert 0 <= activation.zero_point <= 255
    assert np.float32(activation.scale) == activation.scale > 0
    ends = np.array([low, 0.0, high])
    found = dequantized(activation, ends)
    assert found[1] == 0
    np.testing.assert_allclose(found, ends, atol=activation.scale * 1.001)


@pytest.mark.parametrize(("low", "high", "zero_point"), [(0, 6, 0), (0.5, 6, 0), (-3, 0, 255), (-3, -1, 255)])
def test_one_sided_ranges_have_their_zero_at_an_end(low: float, high: float, zero_point: int) -> None:
    assert range_of(low, high).zero_point == zero_point


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40])
def test_a_tensor_without_an_extent_gets_a_usable_scale(value: float) -> None:
    assert range_of(value, value) == ActivationRange(1.0, 0)


@given(st.floats(-9, 9), st.floats(-9, 9), st.integers(0, 2**32 - 1))
@example(0.0, 3.9362213194438415e-36, 0)  # values of more steps than a float32 holds
def test_rounding_is_the_runtimes_own(low: float, high: float, seed: int) -> None:
    activation = range_of(min(low, high), max(low, high))
    values = np.random.default_rng(seed).uniform(-12, 12, 64).astype(np.float32)
    model = model_of(
        """g (float[64] x) => (float[64] y) {
            q = QuantizeLinear (x, scale, zero)
            y = DequantizeLinear (q, scale, zero)
        }""",
        scale=np.asarray(activation.scale, np.float32), zero=np.asarray(activation.zero_point, np.uint8),
    )  # fmt: skip
    expected = Runtime("cpu", 1).session(model, optimize=False).run({"x": values})["y"]
    np.testing.assert_array_equal(rounded(values, activation), expected)


def test_signed_ranges_are_symmetric() -> None:
    assert range_of(-1, 2.54, INT8) == ActivationRange(float(np.float32(0.02)), 0, INT8)
    assert range_of(-2.54, 1, INT8) == range_of(-1, 2.54, INT8)
    assert range_of(0, 0, INT8) == ActivationRange(1.0, 0, INT8)
