import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from onnxmpq.errors import OptionError
from onnxmpq.rounding.quantizer import fit_scale, kinds_of_codes, quantize, round_to_codes
from onnxmpq.values.arrays import Floats
from onnxmpq.values.quantized_weight import Grids, code_range

WEIGHTS = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
)
BITS = st.integers(1, 8)


@settings(deadline=None)
@given(WEIGHTS, BITS, st.booleans(), st.data())
def test_codes_stay_in_range_and_scales_keep_their_sign(
    weight: Floats, bits: int, negative: bool, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    stored = quantize(weight, axis, bits, Grids(negative=negative, odd=False))
    low, high = code_range(bits)
    assert stored.codes.dtype == np.int8
    assert stored.codes.shape == weight.shape
    assert low <= stored.codes.min() <= stored.codes.max() <= high
    assert bits > 1 or set(np.unique(stored.codes)) <= {-1, 1}
    assert stored.scale.shape == (weight.shape[axis],)
    assert (stored.scale != 0).all()
    assert (negative and 1 < bits < 8) or (stored.scale > 0).all()


@settings(deadline=None)
@given(WEIGHTS)
def test_eight_bits_are_within_half_a_step(weight: Floats) -> None:
    stored = quantize(weight, 0, 8)
    step = stored.scale.reshape(-1, *[1] * (weight.ndim - 1))
    inside = np.abs(weight) <= step * 127
    assert (np.abs(stored.dequantize() - weight) <= step * 0.5001 + 1e-7)[inside].all()


def test_more_bits_never_err_more() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    errors = [float(np.square(quantize(weight, 0, bits).dequantize() - weight).sum()) for bits in range(1, 9)]
    assert errors == sorted(errors, reverse=True)


def test_the_scale_is_the_best_of_a_fine_search() -> None:
    weight = np.random.default_rng(1).standard_t(4, (8, 200)).astype(np.float32)
    for bits in (2, 3, 4):
        best = np.full(8, np.inf)
        full = np.abs(weight).max(axis=1) / (2 ** (bits - 1) - 1)
        for shrink in np.linspace(0.1, 1.0, 2000, dtype=np.float32):
            codes = round_to_codes(weight, full * shrink, 0, bits)
            best = np.minimum(best, np.square(codes * (full * shrink)[:, None] - weight).sum(axis=1))
        found = np.square(quantize(weight, 0, bits).dequantize() - weight).sum(axis=1)
        assert (found <= best * 1.03).all()


def test_a_negative_scale_reaches_the_larger_end() -> None:
    weight = np.array([[-0.9, 0.1, 2.0], [0.9, 0.1, -2.0]], np.float32)
    stored = quantize(weight, 0, 2, Grids(odd=False))
    assert np.sign(stored.scale).tolist() == [-1, 1]
    assert np.array_equal(*stored.codes)
    positive = quantize(weight, 0, 2, Grids(negative=False, odd=False))
    errors = [np.square(some.dequantize() - weight).sum(axis=1) for some in (stored, positive)]
    assert errors[0][0] < 0.5 * errors[1][0]
    assert errors[0][1] == errors[1][1]


def test_two_bits_are_odd_where_weights_are_spread_evenly() -> None:
    """A peak at zero wants a code of zero."""
    rng = np.random.default_rng(3)
    even = rng.uniform(-1, 1, (4, 64)).astype(np.float32)
    stored = quantize(even, 0, 2)
    assert stored.odd
    assert set(np.unique(stored.codes)) == {-3, -1, 1, 3}
    plain = quantize(even, 0, 2, Grids(odd=False))
    errors = [np.square(some.dequantize() - even).sum() for some in (stored, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert not quantize(even * (rng.random((4, 64)) < 0.2), 0, 2).odd


def test_a_channel_of_zeros_has_no_odd_codes() -> None:
    weight = np.ones((2, 3), np.float32)
    weight[0] = 0
    assert kinds_of_codes(weight[1:], 0, 2, Grids()) == [False, True]
    assert kinds_of_codes(weight, 0, 2, Grids()) == [False]


@pytest.mark.parametrize(
    ("bits", "grids", "kinds"),
    [
        (2, Grids(odd=False), [False]),
        (2, Grids(even=False), [True]),
        (3, Grids(), [False]),
        (3, Grids(even=False), [False]),
    ],
)
def test_which_kinds_of_codes_a_width_may_have(bits: int, grids: Grids, kinds: list[bool]) -> None:
    assert kinds_of_codes(np.ones((2, 3), np.float32), 0, bits, grids) == kinds


@pytest.mark.parametrize("odd", [False, True])
def test_a_kind_of_codes_may_be_the_only_one(odd: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    assert quantize(weight, 0, 2, Grids(odd=odd, even=not odd)).odd is odd


def test_one_bit_is_the_sign_and_the_mean_magnitude() -> None:
    weight = np.array([[0.5, -1.5, 0.0, 2.0]], np.float32)
    stored = quantize(weight, 0, 1)
    assert stored.codes.tolist() == [[1, -1, 1, 1]]
    assert stored.scale.tolist() == [1.0]


def test_a_channel_of_zeros_is_exact() -> None:
    weight = np.zeros((2, 3), np.float32)
    weight[1] = 1.0
    for bits in range(2, 9):
        assert quantize(weight, 0, bits).dequantize()[0].tolist() == [0.0, 0.0, 0.0]


def test_blocks_do_not_show() -> None:
    weight = np.random.default_rng(2).standard_normal((4, 40_000)).astype(np.float32)
    rows = np.concatenate([fit_scale(weight[i : i + 1], 0, 4) for i in range(4)])
    assert np.array_equal(fit_scale(weight, 0, 4), rows)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(OptionError, match="1 to 8"):
        quantize(np.ones((2, 2), np.float32), 0, bits)


def test_a_channel_of_zeros_stays_next_to_nothing_at_one_bit() -> None:
    stored = quantize(np.array([[0.5, -0.25], [0, 0]], np.float32), 0, 1)
    assert np.abs(stored.dequantize()[1]).max() < 1e-4
    assert (quantize(np.zeros((2, 3), np.float32), 0, 1).scale > 0).all()


def test_a_small_channel_keeps_its_mean_magnitude_at_one_bit() -> None:
    scale = quantize(np.array([[1, -1], [1e-6, -1e-6]], np.float32), 0, 1).scale
    assert scale == pytest.approx([1, 1e-6])
    assert quantize(np.array([[1e-35], [0]], np.float32), 0, 1).scale[1] < 1e-35


def test_no_scale_of_one_bit_is_so_small_that_its_reciprocal_overflows() -> None:
    scale = quantize(np.array([[1, -1], [1e-40, -1e-40]], np.float32), 0, 1).scale
    assert (scale >= np.finfo(np.float32).tiny).all()
