import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.passes.lower.zero_dead_channels import ZeroDeadChannels
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.activation_range import ActivationRange, CodeType
from onnxmpq.values.arrays import Array

RANGES = {"x": ActivationRange(0.02, 128)}
CONV = "g (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Conv (x, w, b) }"
BIAS = np.array([0.5, 0.5, 0.0], np.float32)


def conv_weight(*magnitudes: float) -> Array:
    values = np.random.default_rng(0).standard_normal((len(magnitudes), 2, 1, 1))
    return np.asarray(values * np.array(magnitudes).reshape(-1, 1, 1, 1), np.float32)


def weight_of(model: onnx.ModelProto) -> Array:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")


def test_only_what_the_bias_overwhelms_is_zeroed() -> None:
    weight = conv_weight(1.0, 1e-9, 1e-9)
    model = check_pass(ZeroDeadChannels(RANGES), model_of(CONV, w=weight, b=BIAS), decibels=120)
    np.testing.assert_array_equal(weight_of(model), weight * np.array([1, 0, 1]).reshape(-1, 1, 1, 1))


def test_the_same_channels_are_dead_beside_wider_codes() -> None:
    model = model_of(CONV, w=conv_weight(1.0, 1e-9, 1e-9), b=BIAS)
    wide = {"x": ActivationRange(0.02 / 256, 128, CodeType(16))}
    assert check_pass(ZeroDeadChannels(wide), model) == check_pass(ZeroDeadChannels(RANGES), model)


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_channels_of_a_gemm(transposed: int, axis: int) -> None:
    weight = np.moveaxis(conv_weight(1.0, 1e-9, 1.0).reshape(3, 2), 0, axis)
    text = f"g (float[4, 2] x) => (float[4, 3] y) {{ y = Gemm <transB = {transposed}> (x, w, b) }}"
    model = check_pass(
        ZeroDeadChannels(RANGES), model_of(text, w=np.ascontiguousarray(weight), b=BIAS), decibels=120
    )
    assert (np.moveaxis(weight_of(model), axis, 0) != 0).any(axis=1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "model",
    [
        model_of(CONV, w=conv_weight(1.0, 1e-3, 1.0), b=BIAS),
        model_of(CONV.replace("x, w", "a, w").replace("{", "{ a = Neg (x)"), w=conv_weight(1e-9, 1, 1), b=BIAS),
        model_of(CONV.replace("(x, w, b)", "(x, w)"), w=conv_weight(1e-9, 1, 1)),
        model_of(CONV.replace("{", "{ z = Conv (x, w)"), w=conv_weight(1e-9, 1, 1), b=BIAS),
    ],
    ids=["alive", "float input", "no bias", "shared weight"],
)  # fmt: skip
def test_others_are_left_alone(model: onnx.ModelProto) -> None:
    assert (weight_of(check_pass(ZeroDeadChannels(RANGES), model)) == weight_of(model)).all()
