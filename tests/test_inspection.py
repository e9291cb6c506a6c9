from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import MissingFileError, ModelError
from onnxmpq.inspection import inspect_model
from onnxmpq.testing import model_of

TEXT = """<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 3, 6, 6] x, float[4, 5] free) => (float[N, 4, 4, 4] h, float[?] m, float[N, 2, 2, 2] y) {
  [stem] h = Conv (x, v)
  [head] y = Conv (h, w)
  [loose] m = MatMul (h, free)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "v": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "w": rng.standard_normal((2, 4, 3, 3)).astype(np.float32),
    }
    text = (
        TEXT.replace(", float[4, 5] free", "")
        .replace(", float[?] m", "")
        .replace("[loose] m = MatMul (h, free)", "")
    )
    onnx.save(model_of(text, **weights), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_float_model(model: Path) -> None:
    found = inspect_model(model)
    assert (found.path, found.opset, found.is_compiled) == (str(model), 13, False)
    assert found.file_bytes == model.stat().st_size
    assert [
        (la.name, la.op, la.shape, la.weight_bits, la.stored_bytes, la.reason) for la in found.layers
    ] == [
        ("stem", "Conv", (4, 3, 3, 3), 32, 432, None),
        ("head", "Conv", (2, 4, 3, 3), 32, 288, None),
    ]


@pytest.mark.parametrize(("activations", "bits"), [("fp32", None), ("int8", 8)])
def test_the_plan_inside_a_compiled_file(model: Path, activations: str, bits: int | None) -> None:
    report = onnxmpq.compile_model(
        model, ["32bit-avg"], activations=activations, keep=["head=3", "stem=8"], rounding="nearest"
    )
    found = inspect_model(Path(report.output))
    assert found.is_compiled
    assert found.producer == "onnxmpq"
    assert [(la.name, la.weight_bits, la.stored_bytes) for la in found.layers] == [
        (la.name, la.weight_bits, la.stored_bytes) for la in report.layers
    ]
    assert {la.activation_bits for la in found.layers} == {bits}


@pytest.mark.parametrize("bits", [4, 16])
def test_activations_of_other_widths(model: Path, bits: int) -> None:
    report = onnxmpq.compile_model(
        model, ["32bit-avg"], activations=f"int{bits}", target="portable", keep=["head=4", f"stem=8/{bits}"],
        rounding="nearest",
    )  # fmt: skip
    found = inspect_model(Path(report.output))
    assert [(la.weight_bits, la.activation_bits) for la in found.layers] == [(8, bits), (4, bits)]
    assert [(la.weight_bits, la.activation_bits) for la in report.layers] == [(8, bits), (4, bits)]


def test_what_was_left_in_float_is_listed(model: Path) -> None:
    report = onnxmpq.compile_model(model, ["32bit-avg"], keep=["stem=fp32", "head=4"], rounding="nearest")
    found = inspect_model(Path(report.output))
    assert {la.name: la.weight_bits for la in found.layers} == {"stem": 32, "head": 4}


@pytest.mark.parametrize("head", ["fp16", "fp32", "4"])
def test_half_precision_is_listed_as_the_report_has_it(model: Path, head: str) -> None:
    report = onnxmpq.compile_model(
        model, ["32bit-avg"], keep=["stem=fp16", f"head={head}"], rounding="nearest"
    )
    found = inspect_model(Path(report.output))
    assert found.is_compiled
    assert [(la.name, la.weight_bits, la.stored_bytes) for la in found.layers] == [
        (la.name, la.weight_bits, la.stored_bytes) for la in report.layers
    ]
    assert found.layers[0].weight_bits == 16


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        inspect_model(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_text("no model")
    with pytest.raises(ModelError):
        inspect_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("said", "bits"), [("output_dtype = 21", 4), ("output_dtype = 4", 16), ("output_dtype = 17", 8), ("", 8)]
)
def test_pairs_without_zero_points_say_their_type_themselves(tmp_path: Path, said: str, bits: int) -> None:
    attribute = f"<{said}>" if said else ""
    path = tmp_path / "foreign.onnx"
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    foreign (float[1, 4] x) => (float[1, 2] y) <float s = {{0.1}}> {{
      codes = QuantizeLinear {attribute} (x, s)
      held = DequantizeLinear (codes, s)
      weight = DequantizeLinear <axis = 1> (w, scales)
      y = MatMul (held, weight)
    }}"""
    scales, w = np.full(2, 0.1, np.float32), np.arange(8, dtype=np.int8).reshape(4, 2)
    onnx.save(model_of(text, scales=scales, w=w), path)
    assert [layer.activation_bits for layer in inspect_model(path).layers] == [bits]


def test_a_table_that_is_looked_up_as_codes_is_listed(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32)  # 1 MiB
    head = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    text = """g (int64[N, 5] ids) => (float[N, 5, 8] y) { [words] rows = Gather (t, ids)  [head] y = MatMul (rows, w) }"""
    onnx.save(model_of(text, t=table, w=head), tmp_path / "m.onnx")
    out = tmp_path / "out.onnx"
    ids = np.random.default_rng(2).integers(0, 4096, (16, 5))
    onnxmpq.compile_model(tmp_path / "m.onnx", "8bit-avg", {"ids": ids}, output=out, activations="fp32")
    assert any(
        i.data_type == onnx.TensorProto.INT8 and i.dims[0] == 4096 for i in onnx.load(out).graph.initializer
    )
    assert [(la.name, la.op, la.weight_bits) for la in inspect_model(out).layers] == [
        ("words", "Gather", 8),
        ("head", "MatMul", 8),
    ]
