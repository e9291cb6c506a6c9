import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.normalize.discover import discover
from onnxmpq.values.option import FLOAT_BITS, HALF_BITS

TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[n, 4, 6, 6] x, float[5, 5] free) => (float[n, 3] y, float[n, 6, 4, 4] z)
<float[6, 2, 3, 3] conv = {CONV}, float[6, 3] head = {HEAD}, float16[6, 3] half = {HEAD}, int64[4] dims = {6, 4, 1, 1}>
{
  a = Conv <group = 2> (x, conv)
  z = Conv (x, made)
  made = ConstantOfShape (dims)
  p = GlobalAveragePool (a)
  f = Flatten (p)
  h = MatMul (f, head)
  f16 = Cast <to = 10> (f)
  h16 = MatMul (f16, half)
  h32 = Cast <to = 1> (h16)
  y = Add (h, h32)
}
"""


def graph() -> gs.Graph:
    text = TEXT.replace("CONV", ", ".join(["1"] * 108)).replace("HEAD", ", ".join(["1"] * 18))
    return gs.import_onnx(onnx.parser.parse_model(text)).toposort()


def test_finds_every_layer_in_order_with_its_macs() -> None:
    shapes = {"x": (1, 4, 6, 6), "a": (1, 6, 4, 4), "h": (1, 3), "h16": (1, 3)}
    conv, computed, head, half = sorted(
        discover(graph(), shapes), key=lambda layer: ["conv", "made", "head", "half"].index(layer.weight)
    )
    assert (conv.op, conv.axis, conv.group, conv.params, conv.macs) == ("Conv", 0, 2, 108, 108 * 16)
    assert (head.op, head.axis, head.channels, head.macs) == ("MatMul", 1, 3, 18)
    assert (head.float_bits, half.float_bits) == (FLOAT_BITS, HALF_BITS)
    assert computed.params == 0
    assert computed.reason is not None
    assert "ConstantOfShape" in computed.reason


def test_a_weight_that_is_computed_far_behind_the_data_is_none() -> None:
    """No deeper than any other to read, whatever Python thinks of recursion."""
    ones = gs.Constant("ones", np.ones((3, 3), np.float32))
    for data, count in ((gs.Variable("x", np.float32, (3, 3)), 0), (ones, 1)):
        tensor, nodes = data, []
        for i in range(3000):
            made = gs.Variable(f"t{i}", np.float32, (3, 3))
            nodes.append(gs.Node("Relu", inputs=[tensor], outputs=[made]))
            tensor = made
        y = gs.Variable("y", np.float32, (3, 3))
        nodes.append(
            gs.Node("MatMul", "m", inputs=[gs.Variable("a", np.float32, (3, 3)), tensor], outputs=[y])
        )
        assert len(discover(gs.Graph(nodes, inputs=[], outputs=[y]), {})) == count


def test_a_weight_of_a_type_that_numpy_lacks_stays_as_it_is() -> None:
    (layer,) = discover(one("y = MatMul (x, w)", "bfloat16[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}"), {})
    assert layer.reason == "its weight is bfloat16, not float32 or float16"
    assert layer.float_bits == 16


def test_macs_are_those_of_one_sample() -> None:
    """Of a batch that the graph fixes, and of maps that are batches within a sample."""
    shapes = {"x": (4, 4, 6, 6), "a": (4, 6, 4, 4), "h": (4, 3), "h16": (4, 3)}
    macs = {layer.weight: layer.macs for layer in discover(graph(), shapes, samples=4)}
    assert (macs["conv"], macs["head"]) == (108 * 16, 18)
    macs = {layer.weight: layer.macs for layer in discover(graph(), shapes)}
    assert (macs["conv"], macs["head"]) == (4 * 108 * 16, 4 * 18)


def one(body: str, initializers: str) -> gs.Graph:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[2, 3, 4] x) => (float[a, b, c] y) <{initializers}> {{ {body} }}'
    return gs.import_onnx(onnx.parser.parse_model(text))


def test_a_layer_is_named_by_its_node_or_its_output() -> None:
    g = one("y = MatMul (x, w)", "float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}")
    assert discover(g, {})[0].name == "y"
    g.nodes[0].name = "head"
    assert discover(g, {})[0].name == "head"


def test_a_shared_weight_is_one_layer() -> None:
    (layer,) = discover(
        one("h = MatMul (x, w) \n y = MatMul (h, w)", "float[4, 4] w = {" + ", ".join("1" * 16) + "}"), {}
    )
    assert layer.nodes == ("h", "y")
    assert layer.params == 16


def test_the_left_operand_has_its_channels_in_rows() -> None:
    (layer,) = discover(one("y = MatMul (w, x)", "float[5, 3] w = {" + ", ".join("1" * 15) + "}"), {})
    assert (layer.axis, layer.channels) == (0, 5)


@pytest.mark.parametrize(("trans", "axis"), [(0, 1), (1, 0)])
def test_gemm_channels_follow_the_transpose(trans: int, axis: int) -> None:
    graph = one("y = MatMul (x, w)", "float[4, 4] w = {" + ", ".join("1" * 16) + "}")
    graph.nodes[0].op, graph.nodes[0].attrs = "Gemm", {"transB": trans}
    assert discover(graph, {})[0].axis == axis


def test_what_cannot_be_quantized_says_why() -> None:
    graph = one("y = MatMul (x, w)", "float[4, 4] w = {" + ", ".join("1" * 16) + "}")
    graph.nodes[0].inputs[1].values = np.ones((4, 4))
    assert discover(graph, {})[0].reason == "its weight is float64, not float32 or float16"
    graph.nodes[0].inputs[1].values = np.ones(4, np.float32)
    assert "vector" in (discover(graph, {})[0].reason or "")
    for value in (np.nan, np.inf):
        graph.nodes[0].inputs[1].values = np.full((4, 4), value, np.float32)
        assert discover(graph, {})[0].reason == "its weight holds NaN or Inf"


def test_a_quantized_weight_is_left_alone() -> None:
    graph = one(
        "w = DequantizeLinear (q, s) \n y = MatMul (x, w)",
        "int8[4, 1] q = {1, 2, 3, 4}, float s = {0.5}",
    )
    assert discover(graph, {})[0].reason == "its weight is quantized already"
