"""replace_legacy_ops against ONNX Runtime, which still runs the experimental operators below opset 10."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from onnx.parser import parse_model
from shared import SHARED, needs_shared

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.passes.normalize.raise_opset import RaiseOpset
from onnxmpq.passes.normalize.replace_legacy_ops import replace_legacy_ops
from onnxmpq.runtime.session import Runtime

RUNTIME = Runtime("cpu", threads=1)
LEGACY = {
    "affine": "Affine <alpha = 2.0, beta = -1.0>",
    "crop": "Crop <border = [1, 0, 2, 1]>",
    "crop nothing": "Crop <border = [0, 0, 0, 0]>",
    "crop to a size": "Crop <border = [1, 2, 0, 0], scale = [2, 3]>",
    "image scaler": "ImageScaler <scale = 0.5, bias = [1.0, 2.0]>",
    "parametric softplus": "ParametricSoftplus <alpha = 2.0, beta = 0.5>",
    "scale": "Scale <scale = 3.0>",
    "scaled tanh": "ScaledTanh <alpha = 1.5, beta = 0.7>",
}


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("case", LEGACY)
def test_standard_operators_give_the_same_outputs(case: str, opset: int) -> None:
    model = parse_model(
        f'<ir_version: 4, opset_import: ["": {opset}]>'
        f" g (float[1,2,5,6] x) => (float[N,C,H,W] y) {{ h = Neg (x) y = {LEGACY[case]} (h) }}"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 5, 6), np.float32)}
    old = RUNTIME.session(model, optimize=False).run(feeds)["y"]
    graph = import_graph(model)
    assert replace_legacy_ops(graph)
    assert not replace_legacy_ops(graph)
    replaced = RUNTIME.session(export_model(graph, model), optimize=False).run(feeds)["y"]
    assert_allclose(replaced, old, rtol=1e-6, atol=1e-7)
    RaiseOpset(13)(graph)
    raised = RUNTIME.session(export_model(graph, model), optimize=False).run(feeds)["y"]
    assert_allclose(raised, old, rtol=1e-6, atol=1e-7)


def test_slices_take_inputs_from_opset_10_on() -> None:
    model = parse_model(
        '<ir_version: 4, opset_import: ["": 11]> g (float[1,1,3,3] x) => (float[N,C,H,W] y)'
        " { y = Crop <border = [1, 1, 0, 0]> (x) }"
    )
    graph = import_graph(model)
    replace_legacy_ops(graph)
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    y = RUNTIME.session(export_model(graph, model)).run({"x": x})["y"]
    assert_allclose(y, x[:, :, 1:, 1:])


def test_operators_of_that_name_in_another_domain_are_left_alone() -> None:
    model = parse_model(
        '<ir_version: 4, opset_import: ["": 9, "other": 1]> g (float[2] x) => (float[2] y)'
        " { y = other.Scale <scale = 2.0> (x) }"
    )
    assert not replace_legacy_ops(import_graph(model))


@needs_shared
def test_a_real_model_has_no_legacy_operators_left() -> None:
    model = load_model(SHARED / "robustness" / "candy_style.onnx")
    graph = import_graph(model)
    names = [t.name for t in (*graph.inputs, *graph.outputs)]
    assert replace_legacy_ops(graph)
    assert not {"Affine", "Crop", "ImageScaler"} & {node.op for node in graph.nodes}
    assert [t.name for t in (*graph.inputs, *graph.outputs)] == names
