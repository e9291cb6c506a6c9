"""Which layers find the range of their input when they run, and what becomes of a file of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq import compile_model, evaluate_model
from onnxmpq.errors import OptionError
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.dynamic import NO_DYNAMIC, joined, place_dynamic
from onnxmpq.place.kernels import place_activations
from onnxmpq.testing import model_of

TEXT = """g (float[N, 8, 4] x, float[N, 2, 4, 4] m) => (float[N, 8, 16] q, float[N, 8, 16] k, float[N, 8, 16] v, float[N, 3] h, float[N, 4, 4, 4] c) {
    [norm] r = Relu (x)
    [query] q = MatMul (r, wq)
    [key] k = MatMul (r, wk)
    t = Neg (x)
    [value] v = MatMul (t, wv)
    f = Flatten (x)
    [head] h = Gemm <transB = 1> (f, wh, bh)
    [conv] c = Conv <kernel_shape = [1, 1]> (m, wc)
}"""


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"wq": (4, 16), "wk": (4, 16), "wv": (4, 16), "wh": (3, 32), "bh": (3,), "wc": (4, 2, 1, 1)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def model() -> onnx.ModelProto:
    return model_of(TEXT, **constants())


def test_matrices_share_what_they_read_and_convolutions_stay_in_float() -> None:
    graph = import_graph(model())
    layers = discover(graph, {})
    found = place_dynamic(graph, layers, {layer.name for layer in layers})
    assert found.dynamic == {"r": {"q", "k"}, "t": {"v"}, "f": {"h"}}
    assert found.integer_layers == ("query", "key", "value", "head")
    assert found.float_layers == {"conv": NO_DYNAMIC}
    assert found.split_biases == {"wh"}
    assert found.tensors == ()


def test_beside_static_ranges_both_are_placed() -> None:
    graph = import_graph(model())
    layers = discover(graph, {})
    static = place_activations(graph, layers, {"conv", "head", "value"})
    both = joined(static, place_dynamic(graph, layers, {"query", "key"}))
    assert set(both.integer_layers) == {"query", "key", "value", "head", "conv"}
    assert both.float_layers == {}
    assert both.dynamic == {"r": {"q", "k"}}
    assert both.tensors == static.tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_file_needs_no_calibration_and_fits_inputs_of_any_size(path: Path) -> None:
    out = path.with_name("out.onnx")
    report = compile_model(path, "8bit-avg", output=out, activations="dynamic")
    kernels = {layer.name: layer.kernel for layer in report.layers}
    assert kernels["query"] == kernels["key"] == "MatMulIntegerToFloat"  # of the same codes
    assert kernels["value"] == "DynamicQuantizeMatMul"
    assert kernels["head"] == "QGemm"
    assert kernels["conv"] is None
    rng = np.random.default_rng(1)
    for size in (1.0, 1e4):
        fed = {
            name: (size * rng.standard_normal((16, *shape))).astype(np.float32)
            for name, shape in {"x": (8, 4), "m": (2, 4, 4)}.items()
        }
        score = evaluate_model(out, fed, reference=path).score
        assert all(found.sqnr is not None and found.sqnr > 30 for found in score.outputs.values())


def test_other_consumers_have_no_such_kernels(path: Path) -> None:
    with pytest.raises(OptionError, match="found when the file runs"):
        compile_model(
            path, "8bit-avg", output=path.with_name("o.onnx"), activations="dynamic", target="openvino"
        )
