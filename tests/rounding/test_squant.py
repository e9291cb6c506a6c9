import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.values.arrays import Floats
from onnxmpq.values.quantized_weight import Grids, along, code_range

WEIGHTS = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=st.floats(-4, 4, width=32)
)


def errors(weight: Floats, axis: int, bits: int) -> Floats:
    stored = quantize_balanced(weight, axis, bits)
    return np.moveaxis(stored.codes - weight / along(stored.scale, axis, weight.ndim), axis, 0)


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 8), st.data())
def test_codes_stay_within_a_step_and_in_range(weight: Floats, bits: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    nearest = quantize(weight, axis, bits, Grids(odd=False))  # no code is flipped to an odd neighbour
    balanced = quantize_balanced(weight, axis, bits)
    low, high = code_range(bits)
    assert np.array_equal(nearest.scale, balanced.scale)
    assert low <= balanced.codes.min() <= balanced.codes.max() <= high
    # One flip by the kernel and one by the channel at most.
    assert np.abs(balanced.codes.astype(int) - nearest.codes).max() <= 2


def test_sums_of_kernels_and_channels_are_kept() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32)
    for bits in (5, 6, 8):
        error = errors(weight, 0, bits)
        inside = np.abs(error).max(axis=(1, 2, 3)) < 1.5  # no weight was clipped
        assert inside.any()
        assert (np.abs(error.sum(axis=(1, 2, 3)))[inside] <= 0.51).all()
        assert np.abs(error.sum(axis=(2, 3))[inside]).mean() < 0.4


def test_a_constant_input_passes_almost_exactly() -> None:
    weight = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    constant = np.ones(64, np.float32)
    plain = np.abs(quantize(weight, 0, 4).dequantize() @ constant - weight @ constant).mean()
    kept = np.abs(quantize_balanced(weight, 0, 4).dequantize() @ constant - weight @ constant).mean()
    assert kept < plain / 3


def test_other_axes_are_the_same_transposed() -> None:
    weight = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    turned = quantize_balanced(np.ascontiguousarray(weight.T), 1, 3)
    assert np.array_equal(quantize_balanced(weight, 0, 3).codes, turned.codes.T)
