import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.onnx_io import short_names
from onnxmpq.onnx_io.contents import graphs
from onnxmpq.onnx_io.short_names import LONGEST, short_name, shorten_long_names, shorten_names
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

LONG = "a_name_that_an_exporter_made_of_a_long_path"
TEXT = f"""g (bool p, float[2, 2] x) => (float[2, 2] z)
<float[2, 2] {LONG}_w = {{1, 2, 3, 4}}> {{
    {LONG}_a = Relu (x)
    {LONG}_b = MatMul ({LONG}_a, {LONG}_w)
    z = If (p) < then_branch = s () => (float[2, 2] {LONG}_m) {{ {LONG}_t = Neg ({LONG}_b)  {LONG}_m = MatMul ({LONG}_t, x) }},
                 else_branch = u () => (float[2, 2] {LONG}_m) {{ {LONG}_t = Abs ({LONG}_b)  {LONG}_m = MatMul ({LONG}_t, x) }} > }}"""


def model_with_node_names() -> onnx.ModelProto:
    model = model_of(TEXT)
    for number, node in enumerate(model.graph.node):
        node.name = f"{LONG}_{number}"
    return model


def test_long_names_become_numbers_and_the_model_computes_the_same() -> None:
    model, runtime = model_with_node_names(), Runtime("cpu")
    x = np.array([[1, -2], [3, 4]], np.float32)
    before = [runtime.session(model).run({"p": np.array(p), "x": x})["z"] for p in (True, False)]
    size = model.ByteSize()
    assert shorten_names(model, {f"{LONG}_w", f"{LONG}_1"})
    assert model.ByteSize() < size / 2
    for p, expected in zip((True, False), before, strict=True):
        assert (runtime.session(model).run({"p": np.array(p), "x": x})["z"] == expected).all()


def test_the_interface_and_what_layers_are_known_by_keep_their_names() -> None:
    model = model_with_node_names()
    shorten_names(model, {f"{LONG}_w", f"{LONG}_1"})
    assert [i.name for i in model.graph.input] == ["p", "x"]
    assert [o.name for o in model.graph.output] == ["z"]
    assert [i.name for i in model.graph.initializer] == [f"{LONG}_w"]
    assert [len(n.name) for n in model.graph.node] == [1, len(f"{LONG}_1"), 1]


def test_a_new_name_is_none_that_is_in_use() -> None:
    model = model_of(f"g (float[2] x) => (float[2] z) {{ a = Relu (x)  {LONG} = Neg (a)  z = Abs ({LONG}) }}")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "0"
    shorten_names(model, ())
    assert len({n.output[0] for n in model.graph.node}) == 3
    assert model.graph.node[0].output[0] == "0"


def test_nodes_and_tensors_have_no_name_in_common() -> None:
    model = model_with_node_names()
    model.graph.node[0].name = "0"  # as short as can be, and what a tensor will be called
    shorten_names(model, ())
    nodes = {node.name for graph in graphs(model.graph) for node in graph.node if node.name}
    made = {
        name for graph in graphs(model.graph) for node in graph.node for name in (*node.input, *node.output)
    }
    assert nodes.isdisjoint(made)


def test_names_stay_where_they_take_next_to_nothing() -> None:
    text = f"g (float[N, 64] x) => (float[N, 64] z) {{ {LONG} = MatMul (x, w)  z = Neg ({LONG}) }}"
    model = model_of(text, w=np.zeros((64, 64), np.float32))
    before = model.SerializeToString()
    assert not shorten_names(model, ())
    assert model.SerializeToString() == before


def test_a_name_that_joins_many_is_called_by_its_first_and_told_from_others_of_that() -> None:
    joined = [
        f"net/relu_1/Relu;net/relu_1/Relu;net/conv_{i}/BiasAdd/ReadVariableOp;net/conv_{i}" for i in (1, 2)
    ]
    short = [short_name(name) for name in joined]
    assert all(name.startswith("net/relu_1/Relu~") for name in short)
    assert len(set(short)) == 2


@given(st.text(max_size=200))
def test_a_short_name_is_short_and_stays_as_it_is(name: str) -> None:
    short = short_name(name)
    assert len(short) <= LONGEST
    assert short_name(short) == short


def test_long_names_are_shortened_inside_bodies_too_and_the_former_ones_told() -> None:
    model = model_of(TEXT.replace(LONG, "x" * LONGEST + LONG))
    model.graph.node[0].name = "y" * 100
    former = shorten_long_names(model)
    assert model.graph.node[0].name == short_name("y" * 100)
    assert former[model.graph.node[0].name] == "y" * 100
    onnx.checker.check_model(model)
    names = [node.output[0] for graph in graphs(model.graph) for node in graph.node]
    assert max(map(len, names)) <= LONGEST
    assert [i.name for i in model.graph.input] == ["p", "x"]


def test_names_of_one_mark_are_told_apart_and_from_names_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # private: of sixteen marks, forty names share some
    monkeypatch.setattr(short_names, "_MARK", 1)
    long = [f"{'a' * 40}{i:02}{'b' * 60}" for i in range(40)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], [name]) for name in long]
            + [onnx.helper.make_node("Relu", ["x"], [short_name(long[0], 1)])]
            + [onnx.helper.make_node("Relu", ["x"], ["c" * 80])],
            "g", [], [onnx.helper.make_tensor_value_info("c" * 80, onnx.TensorProto.FLOAT, [1])],
        )
    )  # fmt: skip
    model.graph.node[0].name = "c" * 80  # an output's name, which a node may share
    former = shorten_long_names(model)
    names = [node.output[0] for node in model.graph.node]
    assert len({*names}) == len(names)
    assert names[-1] == "c" * 80
    assert {former[name] for name in names[:40]} == {*long}
    assert len(model.graph.node[0].name) <= LONGEST
