import numpy as np
import pytest
from central_differences import check_gradients

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


def test_a_constant_factor_is_turned_before_the_run() -> None:
    model = model_of(
        "g (float[2, 3, 4] x) => (float[2, 3, 5] y) { y = MatMul (x, w) }", w=np.ones((4, 5), np.float32)
    )
    emitted = check_gradients(model, ["x"], step=0.5)
    assert "Transpose" not in {node.op_type for node in emitted.graph.node}
