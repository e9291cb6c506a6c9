import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.lower.gather_codes import GatherCodes, scales_name
from onnxmpq.passes.lower.halve_constants import halve_constants
from onnxmpq.passes.lower.pack_weights import PackedLayer, PackWeights
from onnxmpq.rounding.half_scales import half_scales
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.testing import check_pass, model_of, run
from onnxmpq.values.quantized_weight import QuantizedWeight
from onnxmpq.verify.readback import read_weights

TABLE = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
INDICES = {"i": np.array([[3, 39, -1], [0, 7, 3]])}
TWICE = """<ir_version: 10, opset_import: ["": 25]> g (int64[2, 3] i) => (float[2, 3, 12] y, float[2, 3, 12] z) {
    y = Gather (table, i)  n = Neg (i)  z = Gather <axis = 0> (table, n) }"""
ALONG_1 = """<ir_version: 10, opset_import: ["": 25]> g (int64[2, 3] i) => (float[12, 2, 3] y) {
    y = Gather <axis = -1> (table, i) }"""


@pytest.mark.parametrize(("text", "table"), [(TWICE, TABLE), (ALONG_1, TABLE.T.copy())])
def test_rows_are_scaled_behind_the_lookup(text: str, table: np.ndarray) -> None:
    rewritten = check_pass(GatherCodes({"table"}), model_of(text, table=table), INDICES, decibels=np.inf)
    scales = next(t for t in rewritten.graph.initializer if t.name == scales_name("table"))
    assert list(scales.dims) == ([40, 1] if len(table) == 40 else [1, 40])


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Gather (table, i)  z = Add (table, one)",  # somebody else reads it
        "y = Gather (table, i)  z = Gather <axis = 1> (table, i)",  # along two axes
    ],
)
def test_a_table_that_is_read_in_other_ways_is_left_alone(nodes: str) -> None:
    model = model_of(
        f"g (int64[2, 3] i) => (float y, float z) {{ {nodes} }}", table=TABLE, one=np.ones(1, np.float32)
    )
    assert not GatherCodes({"table"})(import_graph(model))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("halved", [False, True])
def test_codes_of_any_width_are_looked_up_and_read_back(bits: int, halved: bool) -> None:
    rounded = quantize(TABLE, 0, bits)
    weight = QuantizedWeight(rounded.codes, half_scales(rounded.scale), 0, bits, rounded.odd)
    model = model_of(TWICE, table=TABLE)
    graph = import_graph(model)
    GatherCodes({"table"})(graph)
    assert PackWeights({"table": PackedLayer(weight, "codes")})(graph)
    assert not halved or halve_constants(graph)
    packed = export_model(graph, model)
    onnx.checker.check_model(packed)
    stored = read_weights(packed)["table"]
    np.testing.assert_array_equal(stored.codes, weight.codes)
    np.testing.assert_array_equal(stored.scale, weight.scale)
    assert (stored.bits, stored.axis, stored.scale_bytes) == (bits, 0, 40 * (2 if halved else 4))
    np.testing.assert_array_equal(run(packed, INDICES)["y"], weight.dequantize()[INDICES["i"]])
