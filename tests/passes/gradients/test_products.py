import numpy as np
import pytest
from central_differences import check_gradients

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.testing import model_of


@pytest.mark.parametrize(("a", "b"), [
    ([3, 4], [4, 2]), ([2, 3, 4], [4, 2]), ([2, 3, 4], [2, 4, 5]), ([4], [4, 2]), ([3, 4], [4]), ([4], [4]),
    ([2, 1, 3, 4], [5, 4, 2]), ([4], [2, 4, 3]), ([2, 3, 4], [4]), ([3, 4], [2, 5, 4, 2]), ([1, 3, 4], [2, 4, 2]),
])  # fmt: skip
def test_matmul(a: list[int], b: list[int]) -> None:
    rank = len(np.matmul(np.zeros(a), np.zeros(b)).shape)
    y = f"[{', '.join('?' * rank)}]" if rank else ""
    model = model_of(f"g (double{a} a, double{b} b) => (double{y} y) {{ y = MatMul (a, b) }}")
    check_gradients(model, ["a", "b"], tolerance=1e-9)


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [[2], [1, 2], [3, 1], [1], [3, 2], []])
def test_gemm(turned: tuple[int, int], bias: list[int]) -> None:
    left, right = [[3, 4], [4, 3]][turned[0]], [[4, 2], [2, 4]][turned[1]]
    c = bias or ""  # a scalar has no brackets
    model = model_of(f"""
        g (double{left} a, double{right} b, double{c} c) => (double[3, 2] y) {{
            y = Gemm <alpha = 0.5, beta = -2.0, transA = {turned[0]}, transB = {turned[1]}> (a, b, c)
        }}
    """)
    check_gradients(model, ["a", "b", "c"], tolerance=1e-6)


@pytest.mark.parametrize(("equation", "a", "b"), [
    ("ij,jk->ik", [3, 4], [4, 2]), ("bsd,dhk->bshk", [2, 3, 4], [4, 2, 3]), ("bij,bjk->bik", [2, 3, 4], [2, 4, 2]),
    ("ij,ij->ij", [3, 4], [3, 4]), ("bhsk,hkd->bsd", [2, 2, 3, 4], [2, 4, 5]), ("ij,jk", [3, 4], [4, 2]),
])  # fmt: skip
def test_einsum(equation: str, a: list[int], b: list[int]) -> None:
    y = f"[{', '.join('?' * len(equation.partition('->')[2] or 'ik'))}]"
    text = (
        f"""g (double{a} a, double{b} b) => (double{y} y) {{ y = Einsum <equation = "{equation}"> (a, b) }}"""
    )
    check_gradients(model_of(text), ["a", "b"], tolerance=1e-9)


def test_an_einsum_of_three_operands() -> None:
    model = model_of("""g (double[2, 3] a, double[3, 4] b, double[4, 2] c) => (double[?, ?] y) {
        y = Einsum <equation = "ij,jk,kl->il"> (a, b, c)
    }""")
    check_gradients(model, ["a", "b", "c"], tolerance=1e-9)


def test_an_einsum_that_repeats_an_axis_of_one_has_no_gradient() -> None:
    text = """g (float[3, 1] a, float[4, 2] b) => (float y) { e = Einsum <equation = "ij,jk->ik"> (a, b)
        y = ReduceSum <keepdims = 0> (e) }"""
    with pytest.raises(ModelError, match="repeats an axis of one"):
        EmitGradients("y", ("a",))(import_graph(model_of(text)))


@pytest.mark.parametrize("equation", ["ij,jk->k", "ii,ik->ik", "...j,jk->...k"])
def test_an_einsum_that_has_no_gradient_says_why(equation: str) -> None:
    text = f"""g (float[3, 3] a, float[3, 3] b) => (float y) {{ e = Einsum <equation = "{equation}"> (a, b)
        y = ReduceSum <keepdims = 0> (e) }}"""
    with pytest.raises(ModelError, match="Einsum"):
        EmitGradients("y", ("a",))(import_graph(model_of(text)))


def test_a_constant_factor_is_turned_before_the_run() -> None:
    model = model_of(
        "g (float[2, 3, 4] x) => (float[2, 3, 5] y) { y = MatMul (x, w) }", w=np.ones((4, 5), np.float32)
    )
    emitted = check_gradients(model, ["x"], step=0.5)
    assert "Transpose" not in {node.op_type for node in emitted.graph.node}
