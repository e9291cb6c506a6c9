"""What a file says that it needs, against the versions that were tried."""

from pathlib import Path

import onnx
import pytest

import onnxmpq
from onnxmpq.runtime.requirements import described, requirements
from onnxmpq.testing import model_of
from onnxmpq.values.report import Requirements
from onnxmpq.values.target import TARGETS, Target

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"


# The oldest of 1.15 to 1.24 and 1.31 that loaded and ran the demo model so stored; its own opset is 17.
@pytest.mark.parametrize(
    ("storage", "bits", "version", "opset"),
    [
        ("packed", 1, "1.21", 18), ("packed", 2, "1.24", 25), ("packed", 3, "1.24", 25), ("packed", 4, "1.23", 21),
        ("packed", 5, "1.23", 21), ("packed", 6, "1.24", 25), ("packed", 7, "1.24", 25), ("packed", 8, "1.15", 17),
        ("native", 2, "1.24", 25), ("native", 4, "1.19", 21), ("native", 8, "1.15", 17), ("int8", 3, "1.15", 17),
    ],
)  # fmt: skip
def test_the_floor_is_the_version_that_was_measured(
    storage: str, bits: int, version: str, opset: int, tmp_path: Path
) -> None:
    report = onnxmpq.compile_model(
        DIGITS, ["8bit-avg"], bits=(bits,), storage=storage, activations="fp32", rounding="nearest", samples=8,
        verify=False, output=tmp_path / "m.onnx",
    )  # fmt: skip
    assert (report.requirements.onnxruntime, report.requirements.opset) == (version, opset)
    assert described(onnx.load(tmp_path / "m.onnx")) == Requirements("ort-cpu", storage, opset, version)
    found = onnxmpq.inspect_model(tmp_path / "m.onnx").requirements
    assert str(found) == f"opset {opset}, ONNX Runtime {version}"


@pytest.mark.parametrize(
    ("opset", "version"), [(13, "1.15"), (20, "1.17"), (21, "1.18"), (22, "1.21"), (25, "1.24")]
)
def test_a_models_own_opset_counts(opset: int, version: str) -> None:
    model = model_of(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1] x) => (float[1] y) {{ y = Relu (x) }}'
    )
    assert requirements(model, TARGETS["ort-cpu"]).onnxruntime == version
    assert requirements(model, Target("late", "", onnxruntime="1.30")).onnxruntime == "1.30"


@pytest.mark.parametrize(
    ("opset", "body", "version"),
    [
        (21, "y = LpNormalization (x)", "1.18"),
        (22, "y = LpNormalization (x)", "1.25"),
        (22, "y = DeformConv (i, i, i)", "1.25"),
        (18, "y = MatMul (a, b) q = QuantizeLinear (y, s, z)", "1.15"),
        (21, "y = MatMul (a, b) q = QuantizeLinear (y, s, z)", "1.20"),
        (21, "m = MatMul (a, b) y = Relu (m) q = QuantizeLinear (y, s, z)", "1.20"),
        (21, "y = MatMul (a, b) q = QuantizeLinear (x, s, z)", "1.18"),
        (21, "y = MatMul (a, x) q = QuantizeLinear (y, s, z)", "1.18"),
    ],
)
def test_a_kernel_that_came_after_its_opset_counts(opset: int, body: str, version: str) -> None:
    pairs = "a = DequantizeLinear (c, s, z) b = DequantizeLinear (c, s, z)"
    model = model_of(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1] x, float s, uint8 z, uint8[1] c) => (float y) '
        f"{{ {pairs} {body} }}"
    )
    assert requirements(model, TARGETS["ort-cpu"]).onnxruntime == version


def test_other_models_say_nothing() -> None:
    assert described(onnx.load(DIGITS)) is None
