import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.part_shared_weights import part_shared_weights
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array


def floats(*shape: int, dtype: type = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def held(model: onnx.ModelProto) -> list[str]:
    return sorted(tensor.name for tensor in model.graph.initializer)


@pytest.mark.parametrize(
    ("layers", "copies"),
    [
        ("h = Gemm <transB = 1> (x, w)  y = MatMul (h, w)", 2),
        ("h = MatMul (x, w)  y = Gemm <transB = 1> (h, w)", 2),
        ('h = Einsum <equation = "ij,kj->ik"> (x, w)  y = MatMul (h, w)', 2),
        ("h = MatMul (x, w)  y = MatMul (w, h)", 2),
        ("h = MatMul (x, w)  y = Gemm (h, w)", 1),
        ("g = Gemm <transB = 1> (x, w)  h = MatMul (g, w)  y = Gemm <transB = 1> (h, w)", 2),
    ],
)
def test_every_way_to_read_a_weight_has_a_copy(layers: str, copies: int) -> None:
    text = f"g (float[4, 4] x) => (float[4, 4] y) {{ {layers} }}"
    parted = check_pass(part_shared_weights, model_of(text, w=floats(4, 4)), decibels=np.inf)
    assert held(parted) == ["w", "w_1"][:copies]


@pytest.mark.parametrize(("dtype", "copies"), [("float", 3), ("float16", 1)])
def test_convolutions_of_other_groups_and_turned_ones_where_the_file_does_not_grow(
    dtype: str, copies: int
) -> None:
    text = f"""g ({dtype}[1, 4, 5, 5] x) => ({dtype}[1, 4, 5, 5] a, {dtype}[1, 4, 5, 5] b, {dtype}[1, 2, 5, 5] c) {{
        a = Conv <group = 2> (x, w)  half, rest = Split <axis = 1> (a)  b = Conv (half, w)  c = ConvTranspose (a, w) }}"""
    weight = floats(4, 2, 1, 1, dtype=np.float32 if dtype == "float" else np.float16)
    parted = check_pass(part_shared_weights, model_of(text, w=weight), decibels=np.inf)
    assert held(parted) == ["w", "w_1", "w_2"][:copies]


def test_another_reader_keeps_the_first_copy() -> None:
    text = """g (float[4, 4] x, int64[2] ids) => (float[4, 4] y, float[2, 4] e) {
        e = Gather (w, ids)  h = Gemm <transB = 1> (x, w)  y = MatMul (h, w) }"""
    parted = check_pass(part_shared_weights, model_of(text, w=floats(4, 4)), decibels=np.inf)
    assert [node.input[0] for node in parted.graph.node if node.op_type == "Gather"] == ["w"]
    assert held(parted) == ["w", "w_1"]


def test_a_lookup_reads_the_copy_of_a_layer_that_computes_with_it() -> None:
    text = """g (float[4, 40] x, int64[2] ids) => (float[4, 40] y, float[2, 4] f) {
        e = Gather (w, ids)  f = MatMul (e, u)  h = Gemm <transB = 1> (x, w)  y = MatMul (h, w) }"""
    model = model_of(text, w=floats(40, 40), u=floats(40, 4))
    parted = check_pass(part_shared_weights, model, decibels=np.inf)
    assert [node.input[0] for node in parted.graph.node if node.op_type == "Gather"] == ["w"]
    assert held(parted) == ["u", "w", "w_1"]


def test_a_weight_that_is_an_output_is_not_copied() -> None:
    text = "g (float[4, 4] x) => (float[4, 4] y, float[4, 4] w) { h = Gemm <transB = 1> (x, w)  y = MatMul (h, w) }"
    assert held(check_pass(part_shared_weights, model_of(text, w=floats(4, 4)))) == ["w"]


def test_layers_of_control_flow_bodies_too() -> None:
    text = """g (bool p, float[4, 4] x) => (float[4, 4] z) {
        h = Gemm <transB = 1> (x, w)
        z = If (p) < then_branch = a () => (float[4, 4] m) { m = MatMul (h, w) },
                     else_branch = b () => (float[4, 4] n) { n = Relu (h) } > }"""
    check_pass(part_shared_weights, model_of(text, w=floats(4, 4)), decibels=np.inf)
