"""Files stay at an opset that ONNX Runtime has kernels at."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 16)).astype(np.float32)
W = RNG.standard_normal((16, 16)).astype(np.float32)
NEWEST = 26  # that is not the highest of any target


def compiled(folder: Path, opset: int, body: str) -> tuple[onnxmpq.Report, onnx.ModelProto]:
    header = f'<ir_version: {13 if opset > 25 else 8}, opset_import: ["" : {opset}]>'
    model = model_of(f"{header} g (float[n, 16] x) => (float[n, 16] y) {{ {body} }}", w=W)
    onnx.save(model, folder / "m.onnx")
    report = onnxmpq.compile_model(
        folder / "m.onnx", ["2bit-avg"], {"x": X}, bits=(2,), activations="fp32", rounding="nearest", verify=False,
        output=folder / "o.onnx",
    )  # fmt: skip
    return report, onnx.load(folder / "o.onnx")


def test_an_operator_without_a_newer_kernel_keeps_the_opset_low(tmp_path: Path) -> None:
    body = "h = MatMul (x, w) r = RandomNormalLike <scale = 0.00001> (h) y = Add (h, r)"
    report, file = compiled(tmp_path, 17, body)
    assert opset_version(file) <= 21
    assert not any(tensor.data_type == onnx.TensorProto.INT2 for tensor in file.graph.initializer)
    assert any("without INT2 tensors" in note and "RandomNormalLike(22)" in note for note in report.run.notes)
    assert Runtime("cpu", 1).session(file).run({"x": X})["y"].shape == (32, 16)


def test_others_have_what_there_is(tmp_path: Path) -> None:
    report, file = compiled(tmp_path, 17, "h = MatMul (x, w) y = Relu (h)")
    assert opset_version(file) == 25
    assert not any("stays at opset" in note for note in report.run.notes)


def test_a_model_above_all_targets_keeps_its_opset(tmp_path: Path) -> None:
    model = model_of(
        f'<ir_version: 13, opset_import: ["" : {NEWEST}]> g (float[1] x) => (y) {{ y = Relu (x) }}'
    )
    if not Runtime("cpu", 1).accepts(model):
        pytest.skip(f"this ONNX Runtime reads no opset {NEWEST}")
    _, file = compiled(tmp_path, NEWEST, "h = MatMul (x, w) y = Relu (h)")
    assert opset_version(file) == NEWEST
