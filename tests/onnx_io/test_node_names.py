import numpy as np

from onnxmpq.onnx_io.node_names import name_nodes
from onnxmpq.testing import model_of

TEXT = """g (bool p, float[2, 2] x) => (float[2, 2] z) {
    a = Relu (x)  b = MatMul (a, x)  c = Neg (b)  d = MatMul (c, x)  e = Abs (d)
    z = If (p) < then_branch = s () => (float[2, 2] m) { t = Neg (e)  m = MatMul (t, x) },
                 else_branch = u () => (float[2, 2] m) { t = Neg (e)  m = MatMul (t, x) } > }"""


def test_every_node_has_a_name_of_its_own_and_layers_their_outputs() -> None:
    model = model_of(TEXT)
    for node, name in zip(model.graph.node, ("act", "", "", "layer", "act", "1"), strict=True):
        node.name = name
    name_nodes(model)
    assert [n.name for n in model.graph.node] == ["act", "b", "0", "layer", "act_0", "1"]
    inner = [[n.name for n in a.g.node] for a in model.graph.node[-1].attribute]
    assert sorted(inner) == [["2", "m"], ["3", "m_0"]]


def test_no_node_is_called_as_a_constant_or_an_input_is() -> None:
    model = model_of(
        "g (float[2] x) => (float[2] z) { y = Add (x, c)  z = Neg (y) }", c=np.ones(2, np.float32)
    )
    model.graph.input[0].name = model.graph.node[0].input[0] = "0"
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "1"
    name_nodes(model)
    assert [n.name for n in model.graph.node] == ["2", "3"]


def test_names_that_are_apart_stay() -> None:
    model = model_of("g (float[2] x) => (float[2] z) { y = Relu (x)  z = Neg (y) }")
    model.graph.node[0].name, model.graph.node[1].name = "z", "y"
    before = model.SerializeToString()
    name_nodes(model)
    assert model.SerializeToString() == before
