import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.passes.lower.insert_qdq import InsertQdq
from onnxmpq.testing import check_pass, model_of, random_feeds, run
from onnxmpq.values.activation_range import INT8, ActivationRange, CodeType, range_of
from onnxmpq.values.arrays import Array

CHAIN = model_of("""
g (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) {
    a = Sigmoid (x)
    y = Neg (a)
    z = Mul (a, y)
}
""")
RANGE = ActivationRange(0.05, 128)


def quantized(values: Array, activation: ActivationRange) -> Array:
    codes = np.clip(np.rint(values / np.float32(activation.scale)) + activation.zero_point, 0, 255)
    return np.asarray((codes - activation.zero_point) * np.float32(activation.scale), np.float32)


def readers(model: onnx.ModelProto, op: str) -> list[str]:
    """What the nodes of one operator read first: the operator that makes it, or the tensor's name."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    inputs = [node.input[0] for node in model.graph.node if node.op_type == op]
    return [makers.get(name, name) for name in inputs]


def test_a_result_is_quantized_for_everybody() -> None:
    model = check_pass(InsertQdq({"a": RANGE}), CHAIN, kind="lowering")
    assert readers(model, "Neg") == readers(model, "Mul") == ["DequantizeLinear"]
    feeds = random_feeds(CHAIN)
    expected = quantized(run(CHAIN, feeds)["y"] * -1, RANGE)
    np.testing.assert_allclose(run(model, feeds)["y"], -expected, rtol=1e-6)


def test_a_graph_output_keeps_its_name_and_is_quantized() -> None:
    model = check_pass(InsertQdq({"y": RANGE}), CHAIN, kind="lowering")
    feeds = random_feeds(CHAIN)
    before, after = run(CHAIN, feeds), run(model, feeds)
    np.testing.assert_allclose(after["y"], quantized(before["y"], RANGE), rtol=1e-6)
    assert readers(model, "QuantizeLinear") == ["Neg"]


def test_graph_inputs_keep_their_names() -> None:
    model = check_pass(InsertQdq({"x": RANGE}), CHAIN, kind="lowering")
    assert readers(model, "QuantizeLinear") == ["x"]
    assert readers(model, "Sigmoid") == ["DequantizeLinear"]


def test_readers_of_a_float_source_choose() -> None:
    model = check_pass(InsertQdq({"a": RANGE}, {"a": {"z"}}), CHAIN, kind="lowering")
    assert readers(model, "Neg") == ["Sigmoid"]
    assert readers(model, "Mul") == ["DequantizeLinear"]


def test_a_float_source_that_is_a_graph_output_stays_exact() -> None:
    model = check_pass(InsertQdq({"y": RANGE}, {"y": {"z"}}), CHAIN, kind="lowering")
    feeds = random_feeds(CHAIN)
    np.testing.assert_array_equal(run(model, feeds)["y"], run(CHAIN, feeds)["y"])


def test_a_constant_is_quantized_by_nodes() -> None:
    model = model_of("g (float[1, 4] x) => (float[1, 4] y) { y = Mul (x, k) }", k=np.array(3.0, np.float32))
    lowered = check_pass(InsertQdq({"k": range_of(0, 3)}), model, kind="lowering")
    assert readers(lowered, "QuantizeLinear") == ["k"]
    feeds = random_feeds(model)
    np.testing.assert_allclose(run(lowered, feeds)["y"], run(model, feeds)["y"], rtol=1e-6)


def test_equal_ranges_share_their_constants() -> None:
    model = check_pass(InsertQdq({"x": RANGE, "a": RANGE, "y": range_of(-1, 0)}), CHAIN, kind="lowering")
    assert len(model.graph.initializer) == 4


def test_the_shape_is_read_off_the_codes() -> None:
    model = model_of("g (float[1, 4] x) => (int64[2] s, float[1, 4] y) { y = Neg (x)  s = Shape (y) }")
    assert readers(check_pass(InsertQdq({"y": RANGE}), model, kind="lowering"), "Shape") == ["QuantizeLinear"]


def test_a_shape_is_not_taken_of_four_bit_codes() -> None:
    """ONNX Runtime has no such kernel."""
    model = model_of(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 4] x) => (int64[2] s, float[1, 4] y) { y = Neg (x)  s = Shape (y) }'
    )
    narrow = ActivationRange(0.5, 8, CodeType(4))
    changed = check_pass(InsertQdq({"y": narrow}), model, kind="lowering")
    assert readers(changed, "Shape") == ["DequantizeLinear"]


def test_a_subgraph_reads_the_quantized_value_by_its_name() -> None:
    model = model_of("""
    g (bool c, float[1, 4] x) => (float[1, 4] y) {
        a = Neg (x)
        y = If (c) <
            then_branch = t () => (float[1, 4] p) { p = Relu (a) },
            else_branch = e () => (float[1, 4] q) { q = Abs (a) }
        >
    }
    """)
    lowered = check_pass(InsertQdq({"a": RANGE}), model, kind="lowering")
    feeds = {"c": np.array(False), "x": random_feeds(model)["x"]}
    np.testing.assert_allclose(run(lowered, feeds)["y"], np.abs(quantized(-feeds["x"], RANGE)), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("g (int64[2] x) => (int64[2] a) { a = Neg (x) }", "int64"),
        ("g (uint8[2] x, float s) => (float[2] a) { a = DequantizeLinear (x, s) }", "dequantized already"),
        ("g (float[2] x, float s) => (uint8[2] q, float[2] a) { a = Neg (x) q = QuantizeLinear (a, s) }", "quantized"),
        ("g (float[2] x) => (float[2] y) { y = Neg (x) }", "no such tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantized_is_left_alone(
    text: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(text)
    graph = gs.import_onnx(model)
    with caplog.at_level("DEBUG"):
        assert not InsertQdq({"a": RANGE})(graph)
    assert why in caplog.text


@given(st.floats(-50, 0, width=32), st.floats(0, 50, width=32))
@settings(max_examples=25, deadline=None)
def test_values_in_range_move_by_half_a_step_at_most(low: float, high: float) -> None:
    activation = range_of(low, high)
    lowered = check_pass(InsertQdq({"a": activation}), CHAIN, kind="lowering")
    feeds = {"x": np.linspace(-4, 4, 4, dtype=np.float32)[None]}
    values = 1 / (1 + np.exp(-feeds["x"]))
    inside = (values >= low) & (values <= high)
    error = np.abs(-run(lowered, feeds)["y"] - values)[inside]
    assert (error <= activation.scale * 0.5 + 1e-5).all()


@pytest.mark.parametrize(
    "codes", [INT8, CodeType(16), CodeType(16, signed=True), CodeType(4), CodeType(4, signed=True)]
)
def test_codes_of_other_types(codes: CodeType) -> None:
    chain = onnx.ModelProto.FromString(CHAIN.SerializeToString())
    chain.opset_import[0].version = 21
    lowered = check_pass(InsertQdq({"a": range_of(-1, 2, codes)}), chain, kind="lowering")
    zero_points = {t.name: t for t in lowered.graph.initializer}
    (node,) = (n for n in lowered.graph.node if n.op_type == "QuantizeLinear")
    value = onnx.numpy_helper.to_array(zero_points[node.input[2]])
    assert value.dtype == codes.dtype
    assert value.item() == (0 if codes.signed else codes.highest // 3)
