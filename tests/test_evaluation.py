from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.errors import DataError
from onnxmpq.evaluation import evaluate_model
from onnxmpq.inspection import inspect_model
from onnxmpq.testing import model_of

X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
DATA = {"x": X, "labels": X.argmax(axis=1)}


def save(path: Path, body: str, text: str = "float[N, 4] x", output: str = "float[N, 4] y") -> Path:
    source = f'<ir_version: 8, opset_import: ["" : 18]> g ({text}) => ({output}) {{ {body} }}'
    constants: dict[str, Any] = {"half": np.array(0.5, np.float32), "order": np.array([1, 0, 3, 2])}
    onnx.save(model_of(source, **constants), path)
    return path


def test_alone(tmp_path: Path) -> None:
    model = save(tmp_path / "a.onnx", "y = Mul (x, half)")
    found = evaluate_model(model, DATA)
    assert found.reference is None
    assert (found.score.samples, found.score.top1) == (50, 1.0)
    assert found.file_bytes == found.reference_bytes == model.stat().st_size
    assert found.latency.model > 0


def test_against_a_reference(tmp_path: Path) -> None:
    model, reference = (
        save(tmp_path / "a.onnx", "y = Mul (x, half)"),
        save(tmp_path / "b.onnx", "y = Identity (x)"),
    )
    found = evaluate_model(model, DATA, reference=reference, samples=20)
    assert found.reference == str(reference)
    assert found.score.samples == 20
    assert found.score.agreement == 1.0
    assert found.score.sqnr == pytest.approx(6.02, abs=0.01)
    assert found.reference_bytes == reference.stat().st_size


def test_bytes_are_those_of_external_data_too(tmp_path: Path) -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    model = model_of(f'<ir_version: 8, opset_import: ["" : 18]> {text}', w=np.eye(4, dtype=np.float32))
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
    found = evaluate_model(str(tmp_path / "a.onnx"), DATA, reference=str(tmp_path / "b.onnx"))
    assert found.file_bytes == found.reference_bytes > 64
    assert inspect_model(str(tmp_path / "b.onnx")).file_bytes == found.file_bytes


def test_a_fixed_batch(tmp_path: Path) -> None:
    model = save(tmp_path / "a.onnx", "y = Mul (x, half)", "float[1, 4] x", "float[1, 4] y")
    assert evaluate_model(model, DATA).score.samples == 50


def test_a_file_that_onnxruntime_runs_only_when_cured(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 1, 8, 8] x) => (float[N, 1, 8, 8] y) {
      y = Conv <auto_pad = "SAME_UPPER", dilations = [2, 2]> (x, w) }"""
    onnx.save(model_of(text, w=np.ones((1, 1, 3, 3), np.float32)), tmp_path / "a.onnx")
    assert evaluate_model(tmp_path / "a.onnx", {"x": np.ones((3, 1, 8, 8), np.float32)}).score.samples == 3


def test_a_file_whose_activations_have_4_bits(tmp_path: Path) -> None:
    """Of such pairs, and of a Clip before one, ONNX Runtime makes what it then refuses."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N, 1, 2, 2] x) => (float[N, 1, 2, 2] y) {
      a = QuantizeLinear (x, s, z)  b = DequantizeLinear (a, s, z)  c = Conv (b, w)  d = Clip (c, low, high)
      e = QuantizeLinear (d, s, z)  y = DequantizeLinear (e, s, z) }"""
    constants = {
        "w": np.full((1, 1, 1, 1), 2.0), "low": np.array(0.0), "high": np.array(6.0), "s": np.array(0.25),
    }  # fmt: skip
    model = model_of(text, **{name: value.astype(np.float32) for name, value in constants.items()})
    model.graph.initializer.append(onnx.helper.make_tensor("z", onnx.TensorProto.UINT4, [], [0]))
    onnx.save(model, tmp_path / "a.onnx")
    found = evaluate_model(tmp_path / "a.onnx", {"x": np.ones((3, 1, 2, 2), np.float32)})
    assert found.score.samples == 3


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    model = save(tmp_path / "a.onnx", "y = Identity (x)")
    with pytest.raises(DataError, match=r"go up to 4, but output 'y' has 4 classes, 0 to 3"):
        evaluate_model(model, {**DATA, "labels": DATA["labels"] + 1})


def test_models_whose_inputs_differ_in_shape_or_dtype(tmp_path: Path) -> None:
    model = save(tmp_path / "a.onnx", "y = Identity (x)", "float[1, 4] x", "float[1, 4] y")
    free = save(tmp_path / "b.onnx", "y = Identity (x)")
    assert evaluate_model(model, DATA, reference=free).score.agreement == 1.0
    wide = save(tmp_path / "c.onnx", "y = Identity (x)", "float[N, 5] x", "float[N, 5] y")
    with pytest.raises(DataError, match=r"input 'x' is float32 1x4 against float32 \?x5"):
        evaluate_model(model, DATA, reference=wide)
    half = save(tmp_path / "d.onnx", "y = Cast <to = 1> (x)", "float16[N, 4] x")
    with pytest.raises(DataError, match=r"input 'x' is float32 1x4 against float16 \?x4"):
        evaluate_model(model, DATA, reference=half)


@pytest.mark.parametrize(
    ("body", "output"),
    [("y = Concat <axis = 1> (x, x)", "float[N, 8] y"), ("y = Cast <to = 11> (x)", "double[N, 4] y")],
)
def test_models_whose_results_differ_in_shape_or_dtype(tmp_path: Path, body: str, output: str) -> None:
    model = save(tmp_path / "a.onnx", "y = Identity (x)")
    with pytest.raises(
        DataError, match=r"output 'y' is float32 \[1, 4\] against float(32 \[1, 8\]|64 \[1, 4\])"
    ):
        evaluate_model(model, DATA, reference=save(tmp_path / "b.onnx", body, output=output))


@pytest.mark.parametrize(
    ("text", "output"), [("float[N, 4] z", "float[N, 4] y"), ("float[N, 4] x", "float[N, 4] z")]
)
def test_models_that_cannot_be_compared(tmp_path: Path, text: str, output: str) -> None:
    model = save(tmp_path / "a.onnx", "y = Identity (x)")
    body = f"{output[-1]} = Identity ({text[-1]})"
    with pytest.raises(DataError, match="cannot be compared"):
        evaluate_model(model, DATA, reference=save(tmp_path / "b.onnx", body, text, output))
