"""Matrices that few rows are multiplied with, as a target for token-by-token use takes them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq import compile_model, evaluate_model
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.few_rows import few_rows
from onnxmpq.testing import model_of

TEXT = """g (float[N, 1, 64] x, float[N, 9, 64] m) => (float[N, 1, 96] y, float[N, 9, 32] z, float[N, 96] h) {
    [token] t = MatMul (x, wt)
    y = Relu (t)
    [many] z = MatMul (m, wm)
    f = Squeeze (x, one)
    [biased] h = Gemm (f, wg, b)
}"""


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"wt": (64, 96), "wm": (64, 32), "wg": (64, 96), "b": (96,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return model_of(TEXT, one=np.array([1]), **weights)


@pytest.mark.parametrize(("most", "expected"), [(0, set()), (4, {"token"}), (9, {"token", "many"})])
def test_rows_are_those_of_one_sample(most: int, expected: set[str]) -> None:
    layers = discover(import_graph(model()), {})
    shapes = {"x": (1, 1, 64), "m": (1, 9, 64), "f": (1, 64)}
    assert few_rows(model(), layers, shapes, most) == expected


def test_codes_of_four_bits_are_multiplied_as_they_are(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    rng = np.random.default_rng(1)
    data = {
        name: rng.standard_normal((32, *shape)).astype(np.float32)
        for name, shape in {"x": (1, 64), "m": (9, 64)}.items()
    }
    out = tmp_path / "out.onnx"
    report = compile_model(tmp_path / "model.onnx", "4bit-avg", data, output=out, target="ort-cpu-tokens")
    kernels = {layer.name: layer.kernel for layer in report.layers}
    assert kernels["token"] == "MatMulNBits"
    assert kernels["many"] != "MatMulNBits"
    assert any("multiplied as they are" in note for note in report.notes)
    assert report.requirements.onnxruntime == "1.26"
    score = evaluate_model(out, data, reference=tmp_path / "model.onnx").score
    assert all(found.sqnr is not None and found.sqnr > 15 for found in score.outputs.values())
