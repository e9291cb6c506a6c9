import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.normalize.constant_nodes import evaluated
from onnxmpq.passes.normalize.fold_computed_weights import FOLDED, fold_computed_weights, why_computed
from onnxmpq.testing import check_pass, model_of
from onnxmpq.testing.models import run
from onnxmpq.values.arrays import Array

LAYER = "g (float[3, 16] x) => (float[3, ?] y) {{ {nodes}  y = MatMul (x, v) }}"


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def single(value: float) -> Array:
    return np.array(value, np.float32)


QUANTIZED = {
    "QuantizeLinear and DequantizeLinear": "q = QuantizeLinear (w, s, z)  v = DequantizeLinear (q, s, z)",
    "a channel a scale": (
        "q = QuantizeLinear <axis = 1> (w, sc, zc)  v = DequantizeLinear <axis = 1> (q, sc, zc)"
    ),
    "Clip and Round": "d = Div (w, s)  r = Round (d)  c = Clip (r, low, high)  v = Mul (c, s)",
    "Min, Max and Floor": (
        "d = Div (w, s)  a = Add (d, half)  r = Floor (a)  m = Max (r, low)  c = Min (m, high)  v = Mul (c, s)"
    ),
    "through integers": "d = Div (w, s)  r = Round (d)  i = Cast <to = 3> (r)  f = Cast <to = 1> (i)  v = Mul (s, f)",
    "a scale of its own": "a = Abs (w)  m = ReduceMax (a)  d = Div (w, m)  r = Sign (d)  v = Mul (r, m)",
    "a mask": "b = Less (w, s)  v = Where (b, z32, w)",
    "behind a view": "t = Transpose (w)  d = Div (t, s)  r = Round (d)  m = Mul (r, s)  v = Transpose (m)",
}
CONSTANTS = {
    "w": floats(16, 24), "s": single(0.02), "z": np.array(0, np.int8), "sc": np.full(24, 0.02, np.float32),
    "zc": np.zeros(24, np.int8), "low": single(-127), "high": single(127), "half": single(0.5), "z32": single(0),
}  # fmt: skip


def model_with(nodes: str, **constants: Array) -> onnx.ModelProto:
    text = LAYER.format(nodes=nodes)
    read = {name for line in text.replace(")", ",").split("(") for name in line.replace(" ", "").split(",")}
    return model_of(text, **{name: value for name, value in constants.items() if name in read})


@pytest.mark.parametrize("nodes", QUANTIZED.values(), ids=QUANTIZED)
def test_quantization_written_out_becomes_a_weight(nodes: str) -> None:
    folded = check_pass(fold_computed_weights, model_with(nodes, **CONSTANTS))
    assert {"MatMul"} <= {*ops(folded)} <= {"MatMul", "Transpose"}
    assert [list(t.dims) for t in folded.graph.initializer] in ([[16, 24]], [[24, 16]])


@pytest.mark.parametrize(
    "nodes",
    [
        "v = Slice (b, i0, i16, i0)",
        "v = Gather <axis = 0> (b, rows)",
        "a, c = Split (b, halves)  v = Concat <axis = 1> (a, c)",
        "a, c = Split (b, halves)  v = Add (a, c)",
        "v = Pad (short, pads)",
    ],
)
def test_parts_of_a_constant_become_weights(nodes: str) -> None:
    constants = {
        "b": floats(32, 24), "short": floats(15, 24), "i0": np.array([0]), "i16": np.array([16]), "rows": np.arange(16),
        "halves": np.array([16, 16]), "pads": np.array([0, 0, 1, 0]),
    }  # fmt: skip
    if "Concat" in nodes:
        constants["b"] = floats(32, 12)
    assert ops(check_pass(fold_computed_weights, model_with(nodes, **constants))) == ["MatMul"]


def test_what_shares_a_constant_is_folded_together_and_the_constant_goes() -> None:
    text = """g (float[3, 16] x) => (float[3, 16] y, float[3, 16] z) {
        a, b, c = Split (w, thirds)  y = MatMul (x, a)  z = MatMul (x, b) }"""
    model = model_of(text, w=floats(48, 16), thirds=np.array([16, 16, 16]))
    folded = check_pass(fold_computed_weights, model, decibels=np.inf)
    assert ops(folded) == ["MatMul", "MatMul"]
    assert sorted(t.name for t in folded.graph.initializer) == ["a", "b"]


def test_what_is_blown_up_stays_beside_what_is_folded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = """g (float[3, 16] x) => (float[3, 24] y, float[3, 2400] z) {
        a = Neg (w)  y = MatMul (x, a)  b = Tile (w, times)  z = MatMul (x, b) }"""
    folded = check_pass(fold_computed_weights, model_of(text, w=floats(16, 24), times=np.array([1, 100])))
    assert ops(folded) == ["Neg", "MatMul", "Tile", "MatMul"]
    assert "they would take 38784 bytes" in caplog.text


def test_many_weights_from_one_constant_that_would_take_more_than_it_stay() -> None:
    nodes = "  ".join(f"v{i} = Mul (w, s{i})  y{i} = MatMul (x, v{i})" for i in range(6))
    outputs = ", ".join(f"float[3, 24] y{i}" for i in range(6))
    text = f"g (float[3, 16] x) => ({outputs}) {{ {nodes} }}"
    model = model_of(text, w=floats(16, 24), **{f"s{i}": (i + 1) * floats(24) for i in range(6)})
    assert ops(check_pass(fold_computed_weights, model)).count("Mul") == 6


def test_weight_normalisation_is_folded() -> None:
    """g * v / |v|, as torch.nn.utils.weight_norm exports it: larger than its result at a byte an element."""
    text = """g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] y) {
        n = ReduceL2 <axes = [1, 2, 3]> (w)  d = Div (w, n)  v = Mul (d, gain)  y = Conv (x, v) }"""
    model = model_of(text, w=floats(8, 4, 1, 1), gain=floats(8, 1, 1, 1))
    assert ops(check_pass(fold_computed_weights, model)) == ["Conv"]


@pytest.mark.parametrize(("width", "kept"), [(2, False), (64, True)])
def test_what_little_computes_is_folded_only_where_the_file_shrinks(
    width: int, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = f"g (float[3, {width}] x) => (float[3, {width}] y) {{ v = ConstantOfShape <value = float[1] {{0.5}}> (s)  y = MatMul (x, v) }}"
    folded = check_pass(fold_computed_weights, model_of(text, s=np.array([width, width])))
    assert ops(folded) == (["ConstantOfShape", "MatMul"] if kept else ["MatMul"])
    assert ("would take 4096 bytes" in caplog.text) == kept


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("v = DequantizeLinear (codes, s)", "quantized already"),
        ("c = Cast <to = 1> (codes)  v = Mul (c, s)", "quantized already"),
        (
            "v = Expand (s, shape)",
            "computed by Expand; its codes would take more bytes than what computes it",
        ),
        ("v = RandomNormal <shape = [16, 4]> ()", "computed by RandomNormal, which is not folded"),
        ("v = Hardmax (w)", "computed by Hardmax, which is not folded"),
    ],
)
def test_what_is_left_computed_and_why(nodes: str, reason: str) -> None:
    constants = {
        "codes": np.ones((16, 24), np.int8),
        "s": single(0.5),
        "shape": np.array([16, 240]),
        "w": floats(16, 24),
    }
    graph = import_graph(model_with(nodes, **constants))
    assert not fold_computed_weights(graph)
    assert why_computed(graph, graph.nodes[-1].inputs[1]) == reason


def test_weights_computed_in_a_control_flow_body() -> None:
    text = """g (bool p, float[3, 16] x) => (float[3, 24] z) {
        z = If (p) < then_branch = a () => (float[3, 24] m) { v = Mul (w, s)  m = MatMul (x, v) },
                     else_branch = b () => (float[3, 24] n) { u = Neg (k)  n = MatMul (x, u) } > }"""
    model = model_of(text, w=floats(16, 24), k=floats(16, 24), s=single(0.5))
    folded = check_pass(fold_computed_weights, model)
    branches = [a.g for node in folded.graph.node for a in node.attribute]
    assert [[n.op_type for n in branch.node] for branch in branches] == [["MatMul"], ["MatMul"]]


def test_what_two_bodies_make_from_one_constant_is_folded_together() -> None:
    """As exporters write the gates of an LSTM in both branches of an If: neither alone would free the constant."""
    text = """g (bool p, float[3, 32] x) => (float[3, 24] y) {
        y = If (p) <
            then_branch = t () => (float[3, 24] a) { u = Concat <axis = 1> (w1, w2)  a = MatMul (x, u) },
            else_branch = e () => (float[3, 24] b) { v = Concat <axis = 1> (w1, w2)  n = Neg (x)  b = MatMul (n, v) }
        > }"""
    model = model_of(text, w1=floats(32, 12) * 2, w2=floats(32, 12) * 3)
    before = {p: run(model, {"p": np.array(p), "x": floats(3, 32)})["y"] for p in (True, False)}
    graph = import_graph(model)
    assert fold_computed_weights(graph)
    folded = export_model(graph, model)
    for part in (node.attribute[i].g for node in folded.graph.node for i in range(2)):
        assert "Concat" not in [node.op_type for node in part.node]
    for p, wanted in before.items():
        np.testing.assert_array_equal(run(folded, {"p": np.array(p), "x": floats(3, 32)})["y"], wanted)


def test_a_computed_weight_that_is_an_output_or_captured_stays() -> None:
    text = """g (bool p, float[3, 16] x) => (float[3, 24] y, float[16, 24] v, float[3, 24] z) {
        v = Neg (w)  y = MatMul (x, v)  u = Neg (w)  t = MatMul (x, u)
        z = If (p) < then_branch = a () => (float[3, 24] m) { m = MatMul (x, u) },
                     else_branch = b () => (float[3, 24] n) { n = Relu (t) } > }"""
    folded = check_pass(fold_computed_weights, model_of(text, w=floats(16, 24)))
    assert ops(folded) == ["Neg", "MatMul", "Neg", "MatMul", "If"]


ODD = {  # operators that take other inputs or attributes than one float matrix
    "Cast": "Cast <to = 10> (w)", "Clip": "Clip (w, zero)", "Compress": "Compress <axis = 0> (w, mask)",
    "Concat": "Concat <axis = 1> (w, p)", "ConstantOfShape": "ConstantOfShape (two)", "CumSum": "CumSum (w, axis)",
    "DepthToSpace": "DepthToSpace <blocksize = 2> (d)", "SpaceToDepth": "SpaceToDepth <blocksize = 2> (d)",
    "DequantizeLinear": "DequantizeLinear <axis = 0> (codes, row)", "Einsum": 'Einsum <equation = "ij,kj->ki"> (w, p)',
    "Expand": "Expand (w, three)", "Gather": "Gather <axis = 1> (w, two)", "GatherElements": "GatherElements (w, rows)",
    "GatherND": "GatherND (w, index)", "Gemm": "Gemm <transB = 1> (w, p)", "MatMul": "MatMul (w, square)",
    "Mod": "Mod <fmod = 1> (w, p)", "PRelu": "PRelu (w, p)", "Pad": "Pad (w, four)", "Pow": "Pow (p, w)",
    "QuantizeLinear": "QuantizeLinear (w, half, code)", "Range": "Range (zero, four_f, half)", "Reshape": "Reshape (w, flat)",
    "ScatterElements": "ScatterElements (w, index, part)", "ScatterND": "ScatterND (w, index, values)",
    "Slice": "Slice (w, zeros, two)", "Split": "Split (w, two)", "Squeeze": "Squeeze (d)", "Tile": "Tile (w, two)",
    "Unsqueeze": "Unsqueeze (w, axis1)", "Where": "Where (both, w, p)", "And": "And (both, both)", "Or": "Or (both, both)",
    "Xor": "Xor (both, both)", "Not": "Not (both)", "CastLike": "CastLike (w, h)", "Log": "Log (p)", "Sqrt": "Sqrt (p)",
}  # fmt: skip
_W = floats(4, 4)
INPUTS = {
    "w": _W, "p": np.abs(_W) + np.float32(0.1), "h": _W.astype(np.float16), "zero": single(0), "half": single(0.5),
    "code": np.array(0, np.int8), "mask": np.array([True, False, True, True]), "both": _W > 0, "axis": np.array(1),
    "axis1": np.array([0]), "two": np.array([2, 2]), "zeros": np.array([0, 0]), "rows": np.array([[0, 3, 1, 2]]), "three": np.array([3, 1, 4]), "four": np.array([0, 1, 1, 0]),
    "four_f": single(4), "d": floats(1, 4, 2, 2), "codes": (_W * 20).astype(np.int8), "row": single(0.5) * np.ones(4, np.float32),
    "index": np.array([[0, 1]]), "square": floats(4, 4), "flat": np.array([-1]), "part": floats(1, 2), "values": floats(1),
}  # fmt: skip
PAIRS = {"Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mul", "Sub", "Sum"}  # fmt: skip


@pytest.mark.parametrize("opset", [15, 21])
@pytest.mark.parametrize("op", sorted(FOLDED))
def test_constants_are_computed_as_the_runtime_computes_them(op: str, opset: int) -> None:
    node = ODD.get(op, f"{op} (w, p)" if op in PAIRS else f"{op} (w)")
    outputs = {"Split": "a, y", "DynamicQuantizeLinear": "y, b, c"}.get(op, "y")
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g () => (y) {{ {outputs} = {node} }}'
    read = node[node.index("(") + 1 : -1].replace(" ", "").split(",")
    model = onnx.shape_inference.infer_shapes(model_of(text, **{name: INPUTS[name] for name in read}))
    assert model.graph.output[0].type.tensor_type.elem_type != TensorProto.UNDEFINED
    (found,), wanted = evaluated(model), run(model, {})["y"]
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
