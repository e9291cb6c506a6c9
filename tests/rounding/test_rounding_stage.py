"""What the rounding says of layers that get no matrix of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

import onnxmpq

WIDE = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[n, 5000] x) => (float[n, 4] y) {
  h = Gemm <transB = 1> (x, w0, b0)
  r = Relu (h)
  y = MatMul (r, w1)
}"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Two layers, the first with more columns than one matrix may have."""
    model, rng = parse_model(WIDE), np.random.default_rng(0)
    shapes = {"w0": (6, 5000), "b0": (6,), "w1": (6, 4)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.save(model, tmp_path / "wide.onnx")
    return tmp_path / "wide.onnx"


def test_a_layer_in_blocks_is_named_in_the_report(wide: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 5000))
    report = onnxmpq.compile_model(
        wide, ["4bit-avg"], {"x": x.astype(np.float32)}, activations="fp32", effort="fast"
    )
    said = [note for note in report.run.notes if note.startswith("wider than 4,096 columns")]
    first = report.layers[0].name
    assert said == [
        f"wider than 4,096 columns, rounded in blocks of input channels: {first} (2 of 2,500 columns)"
    ]


def test_layers_whose_inputs_are_not_known_are_named(wide: Path) -> None:
    """64 windows for two blocks of 2,500 columns; the second layer has 6."""
    x = np.random.default_rng(1).standard_normal((64, 5000)).astype(np.float32)
    report = onnxmpq.compile_model(wide, ["4bit-avg"], {"x": x}, activations="fp32", effort="fast")
    said = [note for note in report.run.notes if note.startswith("too few windows")]
    first = report.layers[0].name
    assert said == [f"too few windows to learn from, so the errors of each kernel cancel in {first}"]


def test_weights_on_the_left_and_stacks_of_matrices_are_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[n, 4, 9, 20] x) => (float[n, 4, 12, 7] y) {
      h = MatMul (left, x)  r = Relu (h)  s = MatMul (r, stack)  y = MatMul (s, right) }"""
    model, rng = parse_model(text), np.random.default_rng(0)
    shapes = {"left": (12, 9), "stack": (4, 20, 16), "right": (16, 7)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.save(model, tmp_path / "left.onnx")
    x = rng.standard_normal((24, 4, 9, 20)).astype(np.float32)
    report = onnxmpq.compile_model(
        tmp_path / "left.onnx", ["4bit-avg"], {"x": x}, activations="fp32", effort="fast"
    )
    said = [note for note in report.run.notes if "errors of each kernel" in note]
    assert said == ["weights on the left or in a stack, so the errors of each kernel cancel in h, s"]
