from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.passes.lower.halve_constants import SCALE_UNIT
from onnxmpq.rounding.half_scales import half_bias, half_scales, has_half_scales

SIGN = st.sampled_from([-1, 1])


@given(st.floats(2.0**-26, 15.5, width=32), SIGN)
def test_scales_keep_eleven_bits(size: float, sign: int) -> None:
    scale = np.array([sign * size], np.float32)
    held = half_scales(scale)
    assert abs(held - scale) <= 2.0**-11 * abs(scale)
    assert np.array_equal((held / SCALE_UNIT).astype(np.float16), held / SCALE_UNIT)
    assert np.array_equal(half_scales(held), held)


@given(st.floats(2.0**-126, 2.0**-38, width=32), SIGN)
def test_no_scale_becomes_zero_or_changes_its_sign(size: float, sign: int) -> None:
    held = half_scales(np.array([sign * size], np.float32))
    assert held != 0
    assert np.sign(held) == sign


def test_scales_beyond_half_precision_stay() -> None:
    scale = np.array([0.1, 17.0], np.float32)
    assert half_scales(scale) is scale


@pytest.mark.parametrize(
    ("largest", "holds"), [(0.05, True), (0.0, True), (7.9, True), (1e-6, False), (8.1, False)]
)
def test_layers_with_a_channel_next_to_nothing_keep_their_scales(largest: float, holds: bool) -> None:
    weight = np.full((3, 4, 2), 0.1, np.float32)
    weight[:, 1] = largest
    assert has_half_scales(weight, 1) is holds
    assert has_half_scales(np.moveaxis(weight, 1, 2), -1) is holds


def test_a_bias_is_held_as_near_as_its_largest_value_allows() -> None:
    bias = np.array([3.14159, -1e-9, 0.0], np.float32)
    held = half_bias(bias)
    np.testing.assert_allclose(held, bias, atol=3.2 * 2.0**-11)
    assert np.array_equal(held.astype(np.float16), held)


@pytest.mark.parametrize("bias", [[1e-7, 3e-8], [1e5, 1.0]])
def test_one_beyond_half_precision_stays(bias: list[float]) -> None:
    values = np.array(bias, np.float32)
    assert half_bias(values) is values
