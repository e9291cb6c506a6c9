"""What the rounding says of layers that get no matrix of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
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


def test_a_layer_in_blocks_is_named_in_the_report(tmp_path: Path) -> None:
    model, rng = parse_model(WIDE), np.random.default_rng(0)
    shapes = {"w0": (6, 5000), "b0": (6,), "w1": (6, 4)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.save(model, tmp_path / "wide.onnx")
    x = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 5000))
    report = onnxmpq.compile_model(
        tmp_path / "wide.onnx", ["4bit-avg"], {"x": x.astype(np.float32)}, activations="fp32", effort="fast"
    )
    said = [note for note in report.notes if note.startswith("wider than 4,096 columns")]
    wide = report.layers[0].name
    assert said == [
        f"wider than 4,096 columns, rounded in blocks of input channels: {wide} (2 of 2,500 columns)"
    ]
