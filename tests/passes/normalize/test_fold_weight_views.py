import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.passes.normalize.fold_weight_views import fold_weight_views
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

MATMUL = "g (float[3, 4] x) => (float[3, 6] y) {{ {views}  y = MatMul (x, v) }}"


def floats(*shape: int, dtype: type = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("views", "shape"),
    [
        ("v = Transpose <perm = [1, 0]> (w)", (6, 4)),
        ("v = Transpose (w)", (6, 4)),
        ("v = Reshape (w, two)", (2, 2, 6)),
        ("v = Squeeze (w, zero)", (1, 4, 6)),
        ("v = Squeeze (w)", (1, 4, 1, 6)),
        ("v = Flatten <axis = 2> (w)", (2, 2, 6)),
        ("v = Identity (w)", (4, 6)),
        ("u = Unsqueeze (w, zero)  t = Squeeze (u, zero)  v = Transpose (t)", (6, 4)),
        ("h = Cast <to = 10> (w)  v = Cast <to = 1> (h)", (4, 6)),
    ],
)
def test_views_become_the_weight(views: str, shape: tuple[int, ...]) -> None:
    constants = {"w": floats(*shape), "two": np.array([4, 6]), "zero": np.array([0])}
    used = {name: value for name, value in constants.items() if name in views}
    folded = check_pass(fold_weight_views, model_of(MATMUL.format(views=views), **used), decibels=np.inf)
    assert ops(folded) == ["MatMul"]
    assert [(t.name, list(t.dims)) for t in folded.graph.initializer] == [("v", [4, 6])]


@pytest.mark.parametrize(
    ("layer", "shape", "weight"),
    [
        ("Conv (x, v)", (2, 8, 5, 5), (1, 1, 3, 8)),
        ("ConvTranspose (x, v)", (2, 8, 5, 5), (1, 1, 8, 3)),
    ],
)
def test_convolutions_too(layer: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    text = f"g (float[2, 3, 5, 5] x) => (float[{', '.join(map(str, shape))}] y) {{ v = Transpose <perm = [3, 2, 0, 1]> (w)  y = {layer} }}"
    assert len(ops(check_pass(fold_weight_views, model_of(text, w=floats(*weight))))) == 1


def test_the_left_operand_of_a_matmul() -> None:
    text = "g (float[4, 3] x) => (float[6, 3] y) { v = Transpose (w)  y = MatMul (v, x) }"
    assert ops(check_pass(fold_weight_views, model_of(text, w=floats(4, 6)))) == ["MatMul"]


def test_other_readers_keep_the_constant() -> None:
    text = "g (float[3, 4] x) => (float[3, 6] y, float[6, 4] z) { v = Transpose (w)  y = MatMul (x, v)  z = Relu (w) }"
    folded = check_pass(fold_weight_views, model_of(text, w=floats(6, 4)))
    assert sorted(t.name for t in folded.graph.initializer) == ["v", "w"]


def test_half_way_readers_keep_their_view() -> None:
    text = """g (float[3, 4] x) => (float[3, 6] y, float[4, 6, 1] z) {
        t = Transpose (w)  u = Unsqueeze (t, last)  v = Squeeze (u, last)  y = MatMul (x, v)  z = Relu (u) }"""
    folded = check_pass(fold_weight_views, model_of(text, w=floats(6, 4), last=np.array([2])))
    assert ops(folded) == ["Transpose", "Unsqueeze", "MatMul", "Relu"]


def test_two_layers_share_one_view() -> None:
    text = "g (float[3, 4] x) => (float[3, 6] y, float[3, 6] z) { v = Transpose (w)  y = MatMul (x, v)  z = Gemm (x, v) }"
    folded = check_pass(fold_weight_views, model_of(text, w=floats(6, 4)))
    assert [t.name for t in folded.graph.initializer] == ["v"]


TABLE = floats(24, 4)  # large enough to be worth the nodes that turn it back


@pytest.mark.parametrize(
    ("view", "weight", "table"),
    [
        ("Transpose <perm = [1, 0]> (w)", [4, 24], TABLE),
        ("Transpose (w)", [4, 24], TABLE),
        ("Reshape (w, shape)", [4, 24], TABLE),
    ],
)
def test_a_table_that_the_output_layer_reads_turned_is_held_once(
    view: str, weight: list[int], table: Array
) -> None:
    text = f"""g (int64[2] ids, float[3, 4] x) => (float[2, 4] e, float[3, 24] y) {{
        e = Gather (w, ids)  v = {view}  y = MatMul (x, v) }}"""
    shape = {"shape": np.array([4, 24])} if "shape" in view else {}
    folded = check_pass(fold_weight_views, model_of(text, w=table, **shape), decibels=np.inf)
    floats_held = [t for t in folded.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert [(t.name, list(t.dims)) for t in floats_held] == [("v", weight)]


def test_a_table_behind_several_views_is_held_once() -> None:
    text = """g (int64[2] ids, float[3, 4] x) => (float[2, 6, 4] e, float[3, 24] y) {
        e = Gather (w, ids)  r = Reshape (w, shape)  v = Transpose (r)  y = MatMul (x, v) }"""
    model = model_of(text, w=floats(4, 6, 4), shape=np.array([24, 4]))
    folded = check_pass(fold_weight_views, model, decibels=np.inf)
    assert sum(t.data_type == onnx.TensorProto.FLOAT for t in folded.graph.initializer) == 1


def test_a_lookup_reads_the_view_of_what_a_layer_computes_with() -> None:
    """Each has not its own, whichever of the two is written first."""
    text = """g (float[3, 40] x, int64[2] ids) => (float[3, 50] y, float[2, 40] f) {
        t = Transpose (w)  e = Gather (t, ids)  f = MatMul (e, u)  y = MatMul (x, w) }"""
    model = model_of(text, w=floats(40, 50), u=floats(40, 40))
    graph = import_graph(model)
    assert not fold_weight_views(graph)
    turned = model_of(text.replace("(x, w)", "(x, t)"), w=floats(50, 40), u=floats(50, 40))
    folded = check_pass(fold_weight_views, turned, decibels=np.inf)
    assert sum(t.dims[0] * t.dims[1] for t in folded.graph.initializer) == 2 * 40 * 50


def test_two_layers_of_equal_views_share_one_weight() -> None:
    text = """g (float[3, 4] x) => (float[3, 24] y, float[3, 24] z) {
        v = Transpose (w)  y = MatMul (x, v)  u = Transpose (w)  z = MatMul (x, u) }"""
    folded = check_pass(fold_weight_views, model_of(text, w=TABLE), decibels=np.inf)
    assert ops(folded) == ["MatMul", "MatMul"]
    assert len(folded.graph.initializer) == 1


def test_layers_that_read_a_weight_either_way_have_their_own() -> None:
    text = (
        "g (float[3, 24] x) => (float[3, 24] y) { h = MatMul (x, w)  v = Transpose (w)  y = MatMul (h, v) }"
    )
    folded = check_pass(fold_weight_views, model_of(text, w=TABLE), decibels=np.inf)
    assert sorted(list(t.dims) for t in folded.graph.initializer) == [[4, 24], [24, 4]]


def test_views_in_a_control_flow_body() -> None:
    text = """g (bool p, float[3, 4] x) => (float[3, 6] z) {
        z = If (p) < then_branch = a () => (float[3, 6] m) { v = Transpose (w)  m = MatMul (x, v) },
                     else_branch = b () => (float[3, 6] n) { u = Transpose (w)  n = MatMul (x, u) } > }"""
    check_pass(fold_weight_views, model_of(text, w=floats(6, 4)), decibels=np.inf)


def test_a_view_that_is_an_output_or_captured_stays() -> None:
    text = """g (bool p, float[3, 4] x) => (float[3, 6] y, float[4, 6] v, float[3, 6] z) {
        v = Transpose (w)  y = MatMul (x, v)  u = Transpose (w)  t = MatMul (x, u)
        z = If (p) < then_branch = a () => (float[3, 6] m) { m = MatMul (x, u) },
                     else_branch = b () => (float[3, 6] n) { n = Relu (t) } > }"""
    folded = check_pass(fold_weight_views, model_of(text, w=floats(6, 4)))
    assert ops(folded) == ["Transpose", "MatMul", "Transpose", "MatMul", "If"]
