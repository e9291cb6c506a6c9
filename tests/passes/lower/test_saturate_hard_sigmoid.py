from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.saturate_hard_sigmoid import saturate_hard_sigmoid
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass, model_of, run

TEXT = """g (uint8[1, 256] x) => (uint8[1, 256] y) {{
    a = DequantizeLinear (x, s, z) h = {op} (a) y = QuantizeLinear (h, t, low) }}"""
FEEDS = {"x": np.arange(256, dtype=np.uint8)[None]}


def between_codes(op: str = "HardSigmoid", scale: float = 1 / 255, low: int = 0) -> onnx.ModelProto:
    return model_of(
        TEXT.format(op=op),
        s=np.asarray(0.061, np.float32),
        z=np.asarray(111, np.uint8),
        t=np.asarray(scale, np.float32),
        low=np.asarray(low, np.uint8),
    )


@pytest.mark.parametrize(
    "op",
    ["HardSigmoid", "HardSigmoid <alpha = 0.1666667, beta = 0.5>", "HardSigmoid <alpha = 1.0, beta = -0.25>"],
)
@pytest.mark.parametrize("scale", [1 / 255, 0.7 / 255])
def test_the_codes_are_those_of_the_float_operator(op: str, scale: float) -> None:
    model = between_codes(op, scale)
    changed = check_pass(saturate_hard_sigmoid, model, FEEDS, kind="lowering")
    assert [node.op_type for node in changed.graph.node] == ["DequantizeLinear"] * 2 + [
        "Add",
        "QuantizeLinear",
    ]
    codes, wanted = (run(m, FEEDS)["y"].astype(int) for m in (changed, model))
    assert np.abs(codes - wanted).max() <= 1
    assert (codes != wanted).mean() < 0.05


def test_the_runtime_makes_one_integer_kernel(tmp_path: Path) -> None:
    changed = check_pass(saturate_hard_sigmoid, between_codes(), FEEDS, kind="lowering")
    path = tmp_path / "optimized.onnx"
    Runtime("cpu", 1).session(changed, save_optimized=path)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["QLinearAdd"]


@pytest.mark.parametrize(
    "model",
    [
        between_codes(scale=0.01),  # codes beyond 1
        between_codes(low=3),  # and below 0
        between_codes("HardSigmoid <beta = 0.0>"),
        between_codes("HardSigmoid <alpha = -0.2>"),
        between_codes("Sigmoid"),
    ],
)
def test_others_are_left(model: onnx.ModelProto) -> None:
    changed = check_pass(saturate_hard_sigmoid, model, FEEDS, kind="lowering")
    assert "Add" not in [node.op_type for node in changed.graph.node]
