import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.normalize.lift_constants import lift_constants
from onnxmpq.testing import check_pass, model_of


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("attribute", "dtype", "shape"),
    [
        ("value = float[3] {1, 2, 3}", np.float32, [3]),
        ("value = float {2}", np.float32, []),
        ("value_float = 2.5", np.float32, []),
        ("value_floats = [2.5, 3.5, 1.0]", np.float32, [3]),
    ],
)
def test_a_constant_node_becomes_an_initializer(attribute: str, dtype: type, shape: list[int]) -> None:
    model = model_of(
        f"g (float[2, 3] x) => (float[2, 3] y) {{ c = Constant <{attribute}> ()  y = Mul (x, c) }}"
    )
    lifted = check_pass(lift_constants, model)
    (constant,) = lifted.graph.initializer
    assert ops(lifted) == ["Mul"]
    assert (constant.name, list(constant.dims)) == ("c", shape)
    assert onnx.numpy_helper.to_array(constant).dtype == dtype


@pytest.mark.parametrize("attribute", ["value_int = 4", "value_ints = [4, 2]"])
def test_integers_become_int64(attribute: str) -> None:
    model = model_of(f"g (int64[2] x) => (int64[2] y) {{ c = Constant <{attribute}> ()  y = Mul (x, c) }}")
    (constant,) = check_pass(lift_constants, model).graph.initializer
    assert onnx.numpy_helper.to_array(constant).dtype == np.int64


def test_a_constant_that_is_a_graph_output_stays() -> None:
    model = model_of(
        "g (float[1] x) => (float[1] y, float[1] c) { c = Constant <value_floats = [2.0]> ()  y = Mul (x, c) }"
    )
    assert ops(check_pass(lift_constants, model)) == ["Constant", "Mul"]


def test_strings_stay() -> None:
    model = model_of('g () => (string y) { c = Constant <value_string = "a"> ()  y = Identity (c) }')
    assert ops(check_pass(lift_constants, model, {})) == ["Constant", "Identity"]


def test_an_identity_of_a_constant_goes_with_it() -> None:
    text = """g (float[1] x) => (float[1] y) {
        c = Constant <value_floats = [2.0]> ()  d = Identity (c)  e = Identity (d)  y = Mul (x, e) }"""
    lifted = check_pass(lift_constants, model_of(text))
    assert ops(lifted) == ["Mul"]
    assert [t.name for t in lifted.graph.initializer] == ["c"]


def test_a_graph_without_constant_nodes_is_left_alone() -> None:
    model = model_of("g (float[1] x) => (float[1] y) { y = Mul (x, c) }", c=np.ones(1, np.float32))
    assert ops(check_pass(lift_constants, model)) == ["Mul"]


BRANCHES = """g (bool p, float[2] x) => (float[2] y) {
    outer = Constant <value_floats = [5.0, 7.0]> ()
    alias = Identity (outer)
    y = If (p) <
        then_branch = t () => (float[2] a) { c = Constant <value_floats = [1.0, 2.0]> ()  d = Mul (x, c)  a = Add (d, outer) },
        else_branch = e () => (float[2] b) { c = Constant <value_floats = [3.0, 4.0]> ()  b = Mul (alias, c) }
    > }"""


@pytest.mark.parametrize("taken", [True, False])
def test_subgraphs_keep_their_own_constants(taken: bool) -> None:
    feeds = {"p": np.array(taken), "x": np.array([2, 3], np.float32)}
    lifted = check_pass(lift_constants, model_of(BRANCHES), feeds, decibels=np.inf)
    bodies = {a.name: a.g for a in lifted.graph.node[-1].attribute}
    values = {
        name: [onnx.numpy_helper.to_array(t)[0] for t in g.initializer if t.name == "c"]
        for name, g in bodies.items()
    }
    assert values == {"then_branch": [1], "else_branch": [3]}


def test_an_alias_that_a_subgraph_reads_keeps_its_name() -> None:
    graph = gs.import_onnx(model_of(BRANCHES))
    lift_constants(graph)
    assert [node.op for node in graph.nodes] == ["Identity", "If"]


def test_a_constant_output_of_a_subgraph_stays() -> None:
    text = """g (bool p) => (float[1] y) { y = If (p) <
        then_branch = t () => (float[1] a) { a = Constant <value_floats = [1.0]> () },
        else_branch = e () => (float[1] b) { b = Constant <value_floats = [2.0]> () } > }"""
    check_pass(lift_constants, model_of(text), {"p": np.array(True)})
