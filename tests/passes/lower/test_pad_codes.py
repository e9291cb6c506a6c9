import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.pad_codes import pad_codes
from onnxmpq.testing import check_pass, model_of

TEXT = """g (float[1, 4, 6, 6] x) => (float[1, 8, 6, 6] y) {
    a = QuantizeLinear (x, scale, zero)
    b = DequantizeLinear (a, scale, zero)
    p = Pad <mode = "constant"> (b, pads%s)
    q = QuantizeLinear (p, scale%s, zero)
    y = DequantizeLinear (q, scale%s, zero)
}"""
PADS = np.array([0, 2, 0, 0, 0, 2, 0, 0], np.int64)


def model(text: str, zero: object = np.uint8(128), **constants: object) -> onnx.ModelProto:
    found = {"scale": np.float32(0.02), "zero": zero, "pads": PADS, **constants}
    return model_of(text, **{name: np.asarray(value) for name, value in found.items()})


def ops(found: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in found.graph.node]


@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(128), np.int8(-7)])
@pytest.mark.parametrize("value", [{}, {"value": np.float32(0)}])
def test_the_codes_are_padded_bit_for_bit(zero: np.generic, value: dict[str, np.generic]) -> None:
    text = TEXT % (", value" if value else "", "", "")
    changed = check_pass(pad_codes, model(text, zero, **value), decibels=float("inf"))
    assert ops(changed) == ["QuantizeLinear", "Pad", "DequantizeLinear"]


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (TEXT % (", value", "", ""), {"value": np.float32(1)}),
        (TEXT % ("", "2", "2"), {"scale2": np.float32(0.03)}),
        (TEXT.replace("constant", "edge") % ("", "", ""), {}),
        (TEXT.replace("b = DequantizeLinear (a, scale, zero)", "b = Relu (x)") % ("", "", ""), {}),
    ],
)
def test_others_are_left_alone(text: str, constants: dict[str, np.generic]) -> None:
    before = model(text, **constants)
    assert ops(check_pass(pad_codes, before)) == ops(before)


def test_another_reader_keeps_its_values() -> None:
    text = (
        (TEXT % ("", "", ""))
        .replace("=> (", "=> (float[1, 8, 6, 6] z, ")
        .replace("q = Quant", "z = Neg (p) q = Quant")
    )
    changed = check_pass(pad_codes, model(text), decibels=float("inf"))
    assert sorted(ops(changed)) == ["DequantizeLinear"] * 2 + ["Neg", "Pad", "Pad", "QuantizeLinear"]
