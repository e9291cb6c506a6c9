from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from shared import SHARED, needs_shared

from onnxmpq.onnx_io.graph import hoist_initializers
from onnxmpq.passes.normalize.hoist_subgraph_weights import hoist_subgraph_weights
from onnxmpq.passes.normalize.lift_constants import lift_constants
from onnxmpq.testing import check_pass, model_of, run
from onnxmpq.values.arrays import Array

# Both branches call their weight w.
EQUAL_NAMES = """g (bool p, float[1, 2] x) => (float[1, 2] y) {
    y = If (p) <
        then_branch = t () => (float[1, 2] a) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul (x, w) },
        else_branch = e () => (float[1, 2] b) <float[2, 2] w = {5, 6, 7, 8}> { b = Gemm (x, w) }
    > }"""
NESTED = """g (bool p, float[1, 2] x) => (float[1, 2] y) {
    y = If (p) <
        then_branch = t () => (float[1, 2] a) {
            a = If (p) <
                then_branch = tt () => (float[1, 2] aa) <float[2, 2] w = {1, 2, 3, 4}> { aa = MatMul (x, w) },
                else_branch = te () => (float[1, 2] ab) <float[1, 2] c = {1, 2}> { ab = Mul (x, c) }
            > },
        else_branch = e () => (float[1, 2] b) { b = MatMul (x, outer) }
    > }"""


def bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from bodies(attribute.g)


def inner_initializers(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for body in bodies(model.graph) for tensor in body.initializer]


def feeds(taken: bool) -> dict[str, Array]:
    return {"p": np.array(taken), "x": np.array([[2, 3]], np.float32)}


@pytest.mark.parametrize("taken", [True, False])
def test_equal_names_of_two_branches_become_two_names(taken: bool) -> None:
    model = model_of(EQUAL_NAMES)
    renamed = check_pass(hoist_subgraph_weights, model, feeds(taken), decibels=np.inf)
    assert sorted(inner_initializers(renamed)) == ["w", "w_1"]
    hoist_initializers(renamed)
    assert inner_initializers(renamed) == []
    assert sorted(t.name for t in renamed.graph.initializer) == ["w", "w_1"]
    onnx.checker.check_model(renamed)
    np.testing.assert_array_equal(run(renamed, feeds(taken))["y"], run(model, feeds(taken))["y"])


@pytest.mark.parametrize("taken", [True, False])
def test_nested_and_captured_weights_end_in_the_main_graph(taken: bool) -> None:
    model = model_of(NESTED, outer=np.ones((2, 2), np.float32))
    hoisted = check_pass(hoist_subgraph_weights, model, feeds(taken), decibels=np.inf)
    hoist_initializers(hoisted)
    assert inner_initializers(hoisted) == ["c"]  # no weight
    assert sorted(t.name for t in hoisted.graph.initializer) == ["outer", "w"]
    np.testing.assert_array_equal(run(hoisted, feeds(taken))["y"], run(model, feeds(taken))["y"])


def test_hoisting_twice_changes_nothing() -> None:
    model = gs.export_onnx(gs.import_onnx(model_of(NESTED, outer=np.ones((2, 2), np.float32))))
    hoist_initializers(model)
    once = model.SerializeToString()
    hoist_initializers(model)
    assert model.SerializeToString() == once


def test_a_tensor_that_is_no_weight_keeps_a_name_that_others_have() -> None:
    text = EQUAL_NAMES.replace("MatMul (x, w)", "Gemm (x, x, w)").replace("b = Gemm (x, w)", "b = Add (x, w)")
    graph = gs.import_onnx(model_of(text))
    assert not hoist_subgraph_weights(graph)


def test_one_name_for_two_things_is_not_moved() -> None:
    model = gs.export_onnx(gs.import_onnx(model_of(EQUAL_NAMES)))
    hoist_initializers(model)
    assert inner_initializers(model) == ["w", "w"]


def test_an_initializer_that_is_its_branch_output_stays() -> None:
    text = """g (bool p, float[2, 2] x) => (float[2, 2] y, float[2, 2] z) {
        y, z = If (p) <
            then_branch = t () => (float[2, 2] a, float[2, 2] w) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul (x, w) },
            else_branch = e () => (float[2, 2] b, float[2, 2] c) { b = Relu (x)  c = Relu (x) }
        > }"""
    model = model_of(text)
    hoist_initializers(model)
    assert inner_initializers(model) == ["w"]


def test_a_loop_body_reads_its_weight_from_outside() -> None:
    text = """g (int64 n, bool go, float[1, 2] x) => (float[1, 2] y) {
        y = Loop (n, go, x) <
            body = b (int64 i, bool p, float[1, 2] s) => (bool q, float[1, 2] t) <float[2, 2] w = {1, 2, 3, 4}> {
                q = Identity (p)  t = MatMul (s, w) }
        > }"""
    model = model_of(text)
    given = {"n": np.array(3), "go": np.array(True), "x": np.ones((1, 2), np.float32)}
    hoisted = check_pass(hoist_subgraph_weights, model, given, decibels=np.inf)
    hoist_initializers(hoisted)
    assert inner_initializers(hoisted) == []
    np.testing.assert_array_equal(run(hoisted, given)["y"], run(model, given)["y"])


@needs_shared
@pytest.mark.parametrize("rate", [8000, 16000])
def test_both_branches_of_silero_vad(rate: int) -> None:
    model = onnx.load(SHARED / "robustness" / "silero_vad.onnx")
    graph = gs.import_onnx(model)
    lift_constants(graph)
    hoist_subgraph_weights(graph)
    hoisted = gs.export_onnx(graph)
    hoist_initializers(hoisted)
    weights = [n.input[1] for body in bodies(hoisted.graph) for n in body.node if n.op_type == "Conv"]
    assert len(set(weights)) == 12
    assert set(weights) <= {t.name for t in hoisted.graph.initializer}
    assert not set(weights) & set(inner_initializers(hoisted))
    assert hoisted.ByteSize() < model.ByteSize()
    samples = np.random.default_rng(0).standard_normal((1, 576 if rate == 16000 else 288)).astype(np.float32)
    given = {"input": samples, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(rate)}
    expected, found = run(model, given), run(hoisted, given)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
