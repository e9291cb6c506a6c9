"""widen_half against ONNX Runtime, which runs half precision on the CPU by casts of its own."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto
from onnx.parser import parse_model
from shared import SHARED, needs_shared

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.passes.normalize.widen_half import widen_half
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array

RUNTIME = Runtime("cpu", threads=1)


def model_of(signature: str, nodes: str) -> onnx.ModelProto:
    return parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {signature} {{ {nodes} }}')


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = import_graph(model)
    assert widen_half(graph)
    assert not widen_half(graph)
    result = export_model(graph, model)
    onnx.checker.check_model(result, full_check=True)
    assert [v.SerializeToString() for v in result.graph.input] == [
        v.SerializeToString() for v in model.graph.input
    ]
    assert [v.SerializeToString() for v in result.graph.output] == [
        v.SerializeToString() for v in model.graph.output
    ]
    return result


def run(model: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    return RUNTIME.session(model, optimize=False).run(feeds)


def assert_single_inside(model: onnx.ModelProto) -> None:
    """Casts at the graph's ends are all that is left of half precision."""
    assert TensorProto.FLOAT16 not in {t.data_type for t in model.graph.initializer}
    ends = {v.name for v in model.graph.output}
    for node in model.graph.node:
        to = [a.i for a in node.attribute if a.name == "to"]
        assert to != [TensorProto.FLOAT16] or set(node.output) <= ends


def half(*shape: int) -> Array:
    """Small integers, which half precision adds and multiplies without rounding."""
    return np.random.default_rng(0).integers(-4, 5, shape).astype(np.float16)


# Every number in these is an integer below 2048, so half and single precision agree exactly.
GRAPHS = {
    "constants": (
        "(float16[2,2] x) => (float16[2,2] y) <float16[2,2] w = {1, 2, 3, 4}>",
        "h = MatMul (x, w) y = Add (h, w)",
    ),
    "constant nodes": (
        "(float16[2,2] x) => (float16[2,2] y)",
        "c = Constant <value = float16[1] {3}> () y = Mul (x, c)",
    ),
    "casts inside": (
        "(float16[2,2] x) => (float16[2,2] y)",
        "a = Cast <to = 1> (x) b = Neg (a) c = Cast <to = 10> (b) y = Add (c, x)",
    ),
    "an integer graph with half inside": (
        "(int64[2,2] i) => (int64[2,2] j)",
        "a = Cast <to = 10> (i) b = Neg (a) j = Cast <to = 7> (b)",
    ),
    "an output with readers": (
        "(float16[2,2] x) => (float16[2,2] y, float16[2,2] z)",
        "y = Neg (x) z = Add (y, x)",
    ),
    "a cast output with readers": (
        "(int64[2,2] i) => (float16[2,2] y, float16[2,2] z)",
        "y = Cast <to = 10> (i) z = Add (y, y)",
    ),
    "an input read by a cast only": (
        "(float16[2,2] x) => (float[2,2] y) <float16[1] w = {2}>",
        "a = Cast <to = 1> (x) b = Cast <to = 1> (w) y = Mul (a, b)",
    ),
    "created tensors": (
        "(float16[2,2] x) => (float16[2,2] y)",
        """s = Shape (x) c = ConstantOfShape <value = float16[1] {2}> (s) e = EyeLike <dtype = 10> (c)
           h = Add (c, e) y = Mul (h, x)""",
    ),
    "a constant output": (
        "(float16[2] x) => (float16[2] y, float16[2] c) <float16[2] c = {1, 2}>",
        "y = Add (x, c)",
    ),
    "subgraphs": (
        "(bool b, float16[2] x) => (float16[2] y) <float16[2] w = {1, 2}>",
        """h = Neg (x) y = If (b) <
           then_branch = t () => (float16[2] p) { p = Add (h, w) },
           else_branch = e () => (float16[2] q) { k = Constant <value = float16[1] {5}> () q = Mul (x, k) }>""",
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_single_precision_computes_the_same(case: str) -> None:
    model = model_of(*GRAPHS[case])
    new = widened(model)
    if case != "a constant output":
        assert_single_inside(new)
    for condition in (True, False):
        feeds: dict[str, Array] = {}
        for spec in RUNTIME.session(model).inputs:
            dims = [d or 1 for d in spec.shape]
            feeds[spec.name] = np.array(condition) if spec.name == "b" else half(*dims).astype(spec.dtype)
        old_outputs, new_outputs = run(model, **feeds), run(new, **feeds)
        for name, values in old_outputs.items():
            assert new_outputs[name].dtype == values.dtype
            assert_array_equal(new_outputs[name], values)


def test_a_single_precision_graph_is_left_alone() -> None:
    model = model_of("(float[2] x) => (float[2] y) <float[2] w = {1, 2}>", "y = Add (x, w)")
    assert not widen_half(import_graph(model))


def test_half_at_the_ends_only_is_left_alone() -> None:
    model = model_of(
        "(float16[2] x) => (float16[2] y)", "a = Cast <to = 1> (x) b = Neg (a) y = Cast <to = 10> (b)"
    )
    assert not widen_half(import_graph(model))


@needs_shared
def test_a_real_half_precision_model_agrees() -> None:
    model = load_model(SHARED / "robustness" / "squeezenet_fp16_winml.onnx")
    graph = import_graph(model)
    assert widen_half(graph)
    session = RUNTIME.session(model)
    x = np.random.default_rng(0).standard_normal(session.inputs[0].shape).astype(np.float16)  # type: ignore[arg-type]
    feeds = {session.inputs[0].name: x}
    old, new = session.run(feeds), RUNTIME.session(export_model(graph, model)).run(feeds)
    for name, values in old.items():
        assert_allclose(new[name].astype(np.float32), values.astype(np.float32), atol=2e-3)
        assert new[name].argmax() == values.argmax()
