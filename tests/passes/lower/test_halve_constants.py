"""Two bytes for four, where nothing is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmpq.passes.lower.halve_constants import halve_constants
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)
CHANNELS = 160
INTEGER = """g (float[1, 2, 5, 5] x) => (float[1, 160, 3, 3] y) {
    w = DequantizeLinear <axis = 0> (codes, scale)
    y = Conv (x, w, bias)
}"""
FLOAT = """g (float[1, 2, 5, 5] x) => (float[1, 160, 3, 3] y) {
    cast = Cast <to = 1> (codes)
    w = Mul (cast, scale)
    y = Conv (x, w, bias)
}"""


def halves(shape: tuple[int, ...], unit: float = 1.0) -> NDArray[np.float32]:
    drawn = RNG.uniform(0.01, 2, shape).astype(np.float16).astype(np.float32)
    return drawn * np.float32(unit)


def model(text: str = INTEGER, **changes: NDArray[Any]) -> onnx.ModelProto:
    ones = (1, 1, 1) if text is FLOAT else ()
    codes = RNG.integers(-4, 4, (CHANNELS, 2, 3, 3)).astype(np.int8)
    found: dict[str, NDArray[Any]] = {
        "codes": codes, "scale": halves((CHANNELS, *ones), 2.0**-12), "bias": halves((CHANNELS,)), **changes
    }  # fmt: skip
    return model_of(text, **found)


def types(found: onnx.ModelProto) -> list[int]:
    return sorted(i.data_type for i in found.graph.initializer if i.name != "codes")


@pytest.mark.parametrize("text", [INTEGER, FLOAT])
def test_scales_and_biases_are_halves_bit_for_bit(text: str) -> None:
    before = model(text)
    after = check_pass(halve_constants, before, decibels=math.inf)
    singles = [i for i in after.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert [tuple(i.dims) for i in singles] == [()]  # the unit of scales
    assert sum(i.data_type == onnx.TensorProto.FLOAT16 for i in after.graph.initializer) == 2
    del after.graph.value_info[:]
    assert after.ByteSize() < before.ByteSize() - 3 * CHANNELS


def test_two_groups_share_their_constants() -> None:
    text = """g (float[1, 160, 3, 3] x) => (float[1, 160, 3, 3] y) {
        c = Cast <to = 1> (codes) w = Mul (c, scale) d = Cast <to = 1> (codes) v = Mul (d, wide)
        a = Conv <pads = [1, 1, 1, 1]> (x, w) y = Conv <pads = [1, 1, 1, 1]> (a, v) }"""
    wide = halves((CHANNELS, 1, 3, 3), 2.0**-12)
    scale = halves((CHANNELS, 1, 1, 1), 2.0**-12)
    codes = RNG.integers(-4, 4, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    after = check_pass(
        halve_constants, model_of(text, codes=codes, scale=scale, wide=wide), decibels=math.inf
    )
    assert sum(i.data_type == onnx.TensorProto.FLOAT16 for i in after.graph.initializer) == 2
    assert sum(i.data_type == onnx.TensorProto.FLOAT for i in after.graph.initializer) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": halves((CHANNELS,)) + np.float32(2**-20), "scale": halves((CHANNELS,)) + np.float32(2**-20)},
        {"bias": np.full(CHANNELS, 1e6, np.float32), "scale": np.full(CHANNELS, 17, np.float32)},  # too large
    ],
)
def test_what_would_be_another_number_is_left_alone(changes: dict[str, NDArray[Any]]) -> None:
    before = model(INTEGER, **changes)
    assert types(check_pass(halve_constants, before)) == types(before)


@pytest.mark.parametrize(
    "text",
    [
        INTEGER.replace("(x, w, bias)", "(x, w, bias) z = Neg (bias)").replace("=> (", "=> (float[160] z, "),
        "g (float[160] x) => (float[160] y) { s = Add (x, bias) y = Mul (s, scale) }",
    ],
)
def test_constants_of_other_use_stay(text: str) -> None:
    before = model(text)
    kept = {i.name for i in check_pass(halve_constants, before).graph.initializer}
    assert "bias" in kept


def test_an_older_opset_is_left_alone() -> None:
    weight = RNG.standard_normal((CHANNELS, 2, 3, 3)).astype(np.float32)
    text = "g (float[1, 2, 5, 5] x) => (float[1, 160, 3, 3] y) { y = Conv (x, w, bias) }"
    before = model_of(text, w=weight, bias=halves((CHANNELS,)))
    before.opset_import[0].version, before.ir_version = 12, 7
    assert len(check_pass(halve_constants, before).graph.node) == 1


def test_a_constant_of_two_layers_stays_one() -> None:
    text = INTEGER.replace(
        "y = Conv (x, w, bias)", "a = Conv (x, w, bias) b = Conv (x, w, bias) y = Add (a, b)"
    )
    check_pass(halve_constants, model(text), decibels=math.inf)
