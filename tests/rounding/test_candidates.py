"""The constants that would ship: of a layer, of a group of its channels, in half precision."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.halve_constants import SCALE_UNIT
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.testing import model_of
from onnxmpq.testing.models import example_layer
from onnxmpq.values.arrays import Floats
from onnxmpq.values.group import Group

LAYER = example_layer("y", "Conv", ("y",), "w", (4, 2, 1, 1), 0, bias="b")
WEIGHT = np.random.default_rng(0).standard_normal(LAYER.shape).astype(np.float32)
BIAS = np.array([1.0003, -0.3, 0.7, 0.1], np.float32)  # none of them a half


def convolution(weight: Floats, bias: Floats) -> onnx.ModelProto:
    return model_of(
        "g (float[N, 2, 3, 3] x) => (float[N, c, 3, 3] y) { y = Conv (x, w, b) }", w=weight, b=bias
    )


@pytest.fixture
def candidates() -> Candidates:
    return Candidates(convolution(WEIGHT, BIAS), "nearest")


def test_a_group_of_channels_has_its_part_of_what_the_bias_gains(candidates: Candidates) -> None:
    candidates.replace(LAYER, quantize(WEIGHT, 0, 4), np.arange(4, dtype=np.float32))
    group = Group(LAYER, (1, 3), 0)
    parts = candidates.of_groups(convolution(WEIGHT[[1, 3]], BIAS[[1, 3]]), [group])
    part = replace(LAYER, name=group.name, shape=(2, 2, 1, 1))
    np.testing.assert_array_equal(parts.bias(part, 4), BIAS[[1, 3]] + np.array([1, 3], np.float32))


def test_the_bias_is_a_half_beside_quantized_weights_alone(candidates: Candidates) -> None:
    half = replace(LAYER, scale_bytes=2)
    np.testing.assert_array_equal(candidates.bias(half, 4), BIAS.astype(np.float16).astype(np.float32))
    for bits in (16, 32):
        np.testing.assert_array_equal(candidates.bias(half, bits), BIAS)
    np.testing.assert_array_equal(candidates.bias(LAYER, 4), BIAS)


def test_weights_of_sixteen_bits_are_halves(candidates: Candidates) -> None:
    rounded, exact = (candidates.constants(LAYER, bits)["w"] for bits in (16, 32))
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, WEIGHT.astype(np.float16))
    np.testing.assert_array_equal(exact, WEIGHT)


def test_every_rounding_has_the_scales_that_the_file_holds(candidates: Candidates) -> None:
    half = replace(LAYER, scale_bytes=2)
    for bits in (3, 4):
        candidates.replace(half, quantize(WEIGHT, 0, bits), None)
    for bits in (2, 3, 4):
        scale = candidates.quantized(half, bits).scale / SCALE_UNIT
        np.testing.assert_array_equal(scale, scale.astype(np.float16))
    assert (candidates.quantized(half, 4).scale != quantize(WEIGHT, 0, 4).scale).any()
