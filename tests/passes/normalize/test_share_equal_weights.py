import numpy as np

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.normalize.share_equal_weights import share_equal_weights
from onnxmpq.testing import check_pass, model_of

W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
TWO = "g (float[2, 16] x) => (float[2, 16] y) { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"


def names(model: object) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer]  # type: ignore[attr-defined]


def test_equal_weights_become_one() -> None:
    assert names(check_pass(share_equal_weights, model_of(TWO, w=W, v=W), decibels=np.inf)) == ["w"]


def test_different_ones_and_those_of_one_value_stay() -> None:
    for w, v in ((W, W + 1), (W, W.astype(np.float64).astype(np.float32) * 2), (W * 0, W * 0)):
        assert names(check_pass(share_equal_weights, model_of(TWO, w=w, v=v), decibels=np.inf)) == ["w", "v"]


def test_equal_weights_along_different_axes_stay_apart() -> None:
    """Each has scales of its own: `part_shared_weights` made two of one."""
    text = "g (float[2, 16] x) => (float[2, 16] y) { a = Gemm <transB = 1> (x, w)  b = Relu (a)  y = MatMul (b, v) }"
    assert names(check_pass(share_equal_weights, model_of(text, w=W, v=W), decibels=np.inf)) == ["w", "v"]


def test_a_table_that_is_looked_up_joins_a_layer_of_any_axis() -> None:
    table = np.tile(W, (128, 1))
    text = 'g (int64[2, 3] x) => (float[2, 3, 2048] y) { a = Gather (w, x)  y = Einsum <equation = "ntc,vc->ntv"> (a, v) }'
    feeds = {"x": np.array([[1, 2, 3], [4, 5, 6]])}
    shared = check_pass(share_equal_weights, model_of(text, w=table, v=table), feeds, decibels=np.inf)
    assert names(shared) == ["w"]


def test_a_weight_of_a_body_is_not_shared_with_the_main_graph() -> None:
    text = """g (bool p, float[2, 16] x) => (float[2, 16] y) {
        a = MatMul (x, w)
        y = If (p) <
            then_branch = t () => (float[2, 16] b) { b = MatMul (a, v) },
            else_branch = e () => (float[2, 16] c) { n = Neg (a)  c = MatMul (n, u) }
        > }"""
    feeds = {"p": np.array(True), "x": W[:2]}
    model = model_of(text, w=W, v=W, u=W.copy())
    check_pass(share_equal_weights, model, feeds, decibels=np.inf)
    graph = import_graph(model)
    share_equal_weights(graph)
    assert names(export_model(graph, model)) == ["w", "v"]
