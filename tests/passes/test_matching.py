import logging

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.passes.matching import (
    NoMatch,
    is_constant,
    per_channel,
    read,
    redirect,
    require,
    rewrite_each,
    unique_name,
)
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array


def graph_of(text: str, **constants: Array) -> gs.Graph:
    return gs.import_onnx(model_of(text, **constants))


@given(st.lists(st.sampled_from([1, 2, 5]), max_size=5), st.integers(1, 4), st.data())
def test_per_channel_agrees_with_broadcasting(shape: list[int], rank: int, data: st.DataObject) -> None:
    """Where values are returned, they broadcast over the channel axis exactly as the constant does."""
    axis, channels = data.draw(st.integers(0, rank - 1)), 5
    values = np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)
    result_shape = [3] * rank
    result_shape[axis] = channels
    try:
        found = per_channel(values, rank, axis, channels)
    except NoMatch:
        aligned = (1,) * (rank - len(shape)) + tuple(shape)
        assert (
            len(shape) > rank or any(d > 1 for i, d in enumerate(aligned) if i != axis) or aligned[axis] == 2
        )
        return
    aligned_found = found.reshape([-1 if i == axis else 1 for i in range(rank)])
    np.testing.assert_array_equal(
        np.broadcast_to(values, result_shape), np.broadcast_to(aligned_found, result_shape)
    )


def test_reading_leaves_values_unloaded() -> None:
    graph = graph_of("g (float[2] x) => (float[2] y) { y = Mul (x, c) }", c=np.ones(2, np.float32))
    constant = graph.nodes[0].inputs[1]
    before = constant._values  # private: the public ones would be loaded by being looked at
    np.testing.assert_array_equal(read(constant), [1, 1])
    assert constant._values is before  # private: as above


def test_only_a_constant_can_be_read() -> None:
    graph = graph_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    with pytest.raises(NoMatch, match="x is not constant"):
        read(graph.inputs[0])
    with pytest.raises(NoMatch, match="an input is not constant"):
        read(None)
    assert not is_constant(graph.inputs[0])


def test_rewrite_each_goes_on_until_nothing_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    graph = graph_of("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Relu (a)  y = Relu (b) }")

    def drop_last(inner: gs.Graph, node: gs.Node) -> None:
        require(len(inner.nodes) > 1 and node is inner.nodes[-1], "it is not the last of several")
        inner.nodes.pop()

    assert rewrite_each(graph, {"Relu"}, drop_last)
    assert len(graph.nodes) == 1
    assert not rewrite_each(graph, {"Relu"}, drop_last)
    assert "Relu a is left alone: it is not the last of several" in caplog.text


def test_operators_of_other_domains_are_not_offered() -> None:
    graph = graph_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    graph.nodes[0].domain = "com.example"
    assert not rewrite_each(graph, {"Relu"}, lambda _, node: pytest.fail(node.op))


def test_redirect_moves_every_use() -> None:
    graph = graph_of("g (float[2] x, float[2] z) => (float[2] y) { y = Mul (x, x) }")
    x, z = graph.inputs
    redirect(x.outputs, x, z)
    assert [t.name for t in graph.nodes[0].inputs] == ["z", "z"]
    assert len(x.outputs) == 0


def test_unique_names_count_subgraphs() -> None:
    text = """g (bool p) => (float[1] y) { y = If (p) <
        then_branch = t () => (float[1] a) { w = Constant <value_floats = [1.0]> ()  a = Relu (w) },
        else_branch = e () => (float[1] b) { w_1 = Constant <value_floats = [1.0]> ()  b = Relu (w_1) } > }"""
    graph = graph_of(text)
    assert unique_name(graph, "w") == "w_2"
    assert unique_name(graph, "v") == "v"
