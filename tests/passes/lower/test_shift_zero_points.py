from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.shift_zero_points import shift_zero_points
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass, model_of, run

TEXT = """g (float[1, 64] x) => (float[1, 64] y) {{
    m = {maker} (x)
    c = QuantizeLinear (m, s, z) a = DequantizeLinear (c, s, z)
    k = QuantizeLinear (shift, t, low) b = DequantizeLinear (k, t, low)
    f = Add ({operands})
    d = QuantizeLinear (f, u, w) e = DequantizeLinear (d, u, w)
    y = {reader} }}"""
STEP = 0.05


def shifted(
    steps: float,
    *,
    maker: str = "LeakyRelu <alpha = 1.0>",
    operands: str = "a, b",
    reader: str = "Neg (e)",
    zero: int = 90,
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    shift = np.asarray(steps * STEP, np.float32)
    model = model_of(
        TEXT.format(maker=maker, operands=operands, reader=reader),
        s=np.asarray(0.047, np.float32), z=np.asarray(100, np.uint8), shift=shift, t=np.asarray(abs(shift) / 255, np.float32), low=np.asarray(255 if shift < 0 else 0, np.uint8),
        u=np.asarray(STEP, np.float32), w=np.asarray(zero, np.uint8),
    )  # fmt: skip
    return model, check_pass(shift_zero_points, model, kind="lowering")


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("steps", [7, -7, 1])
@pytest.mark.parametrize("operands", ["a, b", "b, a"])
def test_a_sum_of_whole_steps_is_a_zero_point(steps: int, operands: str) -> None:
    _, changed = shifted(steps, operands=operands)
    assert ops(changed) == ["LeakyRelu", "QuantizeLinear", "DequantizeLinear", "Neg"]
    x = np.linspace(-3, 3, 64, dtype=np.float32)[None]
    wanted = -x - steps * STEP
    assert np.abs(run(changed, {"x": x})["y"] - wanted).max() <= STEP / 2 + 1e-6


def test_the_runtime_computes_no_sum(tmp_path: Path) -> None:
    _, changed = shifted(7)
    Runtime("cpu", 1).session(changed, save_optimized=tmp_path / "o.onnx")
    assert "Add" not in "".join(ops(onnx.load(tmp_path / "o.onnx")))


@pytest.mark.parametrize(
    "form",
    [
        {"steps": 7.4},
        {"steps": -100},  # no code stands for zero
        {"steps": 7, "maker": "Relu"},  # which saturates at the zero point
        {"steps": 7, "maker": "Flatten"},  # whose codes are those before it
        {"steps": 7, "reader": "Mul (e, a)"},
        {"steps": 7, "reader": "Mul (e, f)"},
    ],
)
def test_other_sums_are_computed(form: dict[str, object]) -> None:
    assert "Add" in ops(shifted(**form)[1])  # type: ignore[arg-type]
