import logging

import numpy as np
import onnx
import pytest

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


def test_weight_normalisation_is_folded() -> None:
    """g * v / |v|, as torch.nn.utils.weight_norm exports it: larger than its result at a byte an element."""
    text = """g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] y) {
        n = ReduceL2 <axes = [1, 2, 3]> (w)  d = Div (w, n)  v = Mul (d, gain)  y = Conv (x, v) }"""
    model = model_of(text, w=floats(8, 4, 1, 1), gain=floats(8, 1, 1, 1))
    assert ops(check_pass(fold_weight_views, model)) == ["Conv"]


@pytest.mark.parametrize(("width", "kept"), [(2, False), (64, True)])
def test_what_little_computes_is_folded_only_where_the_file_shrinks(
    width: int, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = f"g (float[3, {width}] x) => (float[3, {width}] y) {{ v = ConstantOfShape <value = float[1] {{0.5}}> (s)  y = MatMul (x, v) }}"
    folded = check_pass(fold_weight_views, model_of(text, s=np.array([width, width])))
    assert ops(folded) == (["ConstantOfShape", "MatMul"] if kept else ["MatMul"])
    assert ("v would take 4096 bytes" in caplog.text) == kept


@pytest.mark.parametrize(
    ("views", "shape", "dtype", "reason"),
    [
        ("v = DequantizeLinear (w, s)", (4, 6), np.int8, "made by DequantizeLinear"),
        ("c = Cast <to = 1> (w)  v = Mul (c, s)", (4, 6), np.int8, "made from integers"),
        ("c = Cast <to = 6> (w)  v = Cast <to = 1> (c)", (4, 6), np.float32, "made from integers"),
        ("c = Relu (x)  v = Transpose (c)", (4, 6), np.float32, "made by Relu"),
    ],
)
def test_what_is_refused_and_why(
    views: str, shape: tuple[int, ...], dtype: type, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    weight: Array = (floats(*shape) * 5).astype(dtype)
    text = MATMUL.format(views=views).replace("float[3, 6]", "float[?, ?]")
    constants = {"w": weight, "s": np.array(0.5, np.float32)}
    model = model_of(text, **{k: v for k, v in constants.items() if f"{k})" in views or f"{k}," in views})
    assert len(ops(check_pass(fold_weight_views, model))) > 1
    assert reason in caplog.text


def test_a_view_that_is_an_output_or_captured_stays() -> None:
    text = """g (bool p, float[3, 4] x) => (float[3, 6] y, float[4, 6] v, float[3, 6] z) {
        v = Transpose (w)  y = MatMul (x, v)  u = Transpose (w)  t = MatMul (x, u)
        z = If (p) < then_branch = a () => (float[3, 6] m) { m = MatMul (x, u) },
                     else_branch = b () => (float[3, 6] n) { n = Relu (t) } > }"""
    folded = check_pass(fold_weight_views, model_of(text, w=floats(6, 4)))
    assert ops(folded) == ["Transpose", "MatMul", "Transpose", "MatMul", "If"]
