"""Parts of a model run batches of any size, and know as much of shapes as the whole does."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.onnx_io.subgraph import crossing, crossing_sizes, extract
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.testing import model_of

# As PyTorch exports an interpolation to the size of another tensor.
UPSAMPLED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 3, h, w] y) <
  int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4} > {
    c = Conv <pads = [1, 1, 1, 1]> (x, wa)  r = Relu (c)  d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    of_r = Shape (r)  size = Slice (of_r, two, four)  of_d = Shape (d)  outer = Slice (of_d, zero, two)
    sizes = Concat <axis = 0> (outer, size)  e = Conv <pads = [1, 1, 1, 1]> (d, wb)
    u = Resize <mode = "nearest"> (e, , , sizes)  s = Add (u, r)  y = Conv <pads = [1, 1, 1, 1]> (s, wc) }"""


def upsampled() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"wa": (8, 3, 3, 3), "wb": (8, 8, 3, 3), "wc": (3, 8, 3, 3)}
    return model_of(
        UPSAMPLED, **{n: 0.2 * rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    )


def test_a_part_is_told_how_many_sizes_it_is_given() -> None:
    model, runtime = upsampled(), Runtime("cpu", 1)
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    traced = trace(runtime, model, {"x": x[:1]})
    part = extract(model, [n for n in model.graph.node if n.op_type == "Resize"], ["u"], traced)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in part.model.graph.input}
    assert shapes == {"e": [0, 0, 0, 0], "sizes": [4]}
    e = np.ones((3, 8, 4, 4), np.float32)
    found = runtime.session(part.model).run({"e": e, "sizes": np.array([3, 8, 8, 8])})["u"]
    np.testing.assert_array_equal(found, np.ones((3, 8, 8, 8), np.float32))


def test_a_vector_of_data_may_be_of_any_length() -> None:
    model = model_of(
        "g (float[N, 3] x) => (int64[N] y) { a = ArgMax <axis = 1, keepdims = 0> (x) y = Abs (a) }"
    )
    runtime = Runtime("cpu", 1)
    traced = trace(runtime, model, {"x": np.ones((1, 3), np.float32)})
    part = extract(model, model.graph.node[1:], ["y"], traced)
    assert runtime.session(part.model).run({"a": np.arange(5)})["y"].tolist() == [0, 1, 2, 3, 4]


def test_a_vector_cut_by_computed_bounds_may_be_of_any_length() -> None:
    model = model_of("""g (float[N, 3] x) => (float[M] y) < int64[1] zero = {0}, int64[1] one = {1}, float[9] table = {1,2,3,4,5,6,7,8,9} > {
        s = Shape (x)  n = Slice (s, zero, one)  e = Slice (table, zero, n)  y = Abs (e) }""")
    runtime = Runtime("cpu", 1)
    traced = trace(runtime, model, {"x": np.ones((1, 3), np.float32)})
    part = extract(model, model.graph.node[3:], ["y"], traced)
    assert runtime.session(part.model).run({"e": np.ones(5, np.float32)})["y"].tolist() == [1] * 5


@pytest.mark.parametrize("activations", ["int8", "fp32"])
def test_a_network_that_resizes_to_the_size_of_a_tensor_compiles(tmp_path: Path, activations: str) -> None:
    onnx.save(upsampled(), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((24, 3, 8, 8)).astype(np.float32)
    report = onnxmpq.compile_model(
        tmp_path / "m.onnx", ["5bit-avg"], {"x": x}, effort="fast", activations=activations
    )
    assert (report.quality.metrics["compiled"].sqnr or 0) > 20


def test_bytes_that_cross_each_place_are_those_of_the_tensors_that_do() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 6] x) => (float[n, 6] y) {
            a = MatMul (x, w1)  r = Relu (a)  b = MatMul (r, w2)  s = Add (b, a)  y = MatMul (s, w3) }""")
    nodes, sizes = model.graph.node, {"x": 1, "a": 10, "r": 100, "b": 1000, "s": 10_000, "y": 100_000}
    expected = [sum(sizes[name] for name in crossing(nodes, place, (), ["x"])) for place in range(6)]
    assert crossing_sizes(nodes, sizes).tolist() == expected == [1, 10, 110, 1010, 10_000, 0]
