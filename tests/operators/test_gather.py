"""Tables that are looked up: which are layers, and along which axis they have scales."""

import numpy as np
import onnx
import pytest

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def embedding(table: Array, axis: int = 0, behind: str = "y = MatMul (e, w)") -> onnx.ModelProto:
    text = f"g (int64[N, 4] i) => (float[N, 4, 3] y) {{ e = Gather <axis = {axis}> (table, i)  {behind} }}"
    return model_of(text, table=table, w=floats(table.shape[1 - axis], 3))


def table_of(model: onnx.ModelProto) -> Layer | None:
    found = discover(import_graph(model), {"e": (2, 4, 40), "y": (2, 4, 3)})
    return next((layer for layer in found if layer.op == "Gather"), None)


def test_a_table_has_a_scale_a_row_and_no_columns() -> None:
    layer = table_of(embedding(floats(50, 40)))
    assert layer is not None
    assert layer.reason is None
    assert (layer.name, layer.weight, layer.axis, layer.channels) == ("e", "table", 0, 50)
    assert layer.layout.columns == ()
    assert layer.macs == 2 * 4 * 40


def test_short_rows_have_their_scales_along_the_columns() -> None:
    layer = table_of(embedding(floats(300, 8)))
    assert layer is not None
    assert (layer.axis, layer.channels) == (1, 8)


def test_a_table_that_is_read_along_another_axis_has_its_scales_there() -> None:
    layer = table_of(embedding(floats(40, 50), 1, "t = Transpose <perm = [1, 2, 0]> (e)  y = MatMul (t, w)"))
    assert layer is not None
    assert (layer.axis, layer.channels) == (1, 50)


@pytest.mark.parametrize(
    ("table", "behind"),
    [
        (floats(10, 8), "y = MatMul (e, w)"),  # smaller than what unpacks it
        (floats(2000), "y = Unsqueeze (e, w)"),
        (RNG.integers(0, 9, (50, 40)), "y = Cast <to = 1> (e)"),
        (floats(50, 40), "y = Relu (e)"),  # coordinates of anchors, say
    ],
)
def test_what_is_small_or_no_matrix_or_goes_to_the_outputs_is_none(table: Array, behind: str) -> None:
    w = np.array([0]) if table.ndim == 1 else floats(table.shape[-1], 3)
    text = f"g (int64[N, 4] i) => (float y) {{ e = Gather (table, i)  {behind} }}"
    assert table_of(model_of(text, table=table, w=w)) is None


def test_rows_are_rounded_to_the_nearest() -> None:
    model = embedding(floats(50, 40))
    layer = table_of(model)
    assert layer is not None
    table = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(Candidates(model).quantized(layer, 3).codes, quantize(table, 0, 3).codes)


def test_a_table_that_a_product_reads_too_is_the_layer_of_the_product() -> None:
    text = """g (int64[N, 4] i) => (float[N, 50] y) {
        e = Gather (table, i)  s = ReduceMean <axes = [1], keepdims = 0> (e)  y = Gemm <transB = 1> (s, table) }"""
    (layer,) = discover(import_graph(model_of(text, table=floats(50, 40))), {})
    assert (layer.name, layer.op, layer.nodes, layer.layout.blind) == ("y", "Gemm", ("e", "y"), None)
