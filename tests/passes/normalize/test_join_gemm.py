"""MatMul and Add become a Gemm where both are known to be plain."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.join_gemm import join_gemm
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

RNG = np.random.default_rng(0)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def dense(shape: str, result: str, body: str, *bias: int, kind: str = "float") -> onnx.ModelProto:
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    values: dict[str, Array] = {
        name: RNG.standard_normal(some).astype(dtype) for name, some in (("w", (4, 5)), ("b", bias))
    }
    return model_of(f"g ({kind}[{shape}] x) => ({kind}[{result}] y) {{ {body} }}", **values)


DENSE = "p = MatMul (x, w) y = Add (p, b)"


@pytest.mark.parametrize("bias", [(5,), (1, 5), (), (1,)])
@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_a_dense_layer(bias: tuple[int, ...], kind: str) -> None:
    found = check_pass(join_gemm, dense("n, 4", "n, 5", DENSE, *bias, kind=kind))
    assert ops(found) == ["Gemm"]
    assert found.graph.node[0].output == ["y"]


def test_the_bias_may_come_first() -> None:
    assert ops(check_pass(join_gemm, dense("3, 4", "3, 5", "p = MatMul (x, w) y = Add (b, p)", 5))) == [
        "Gemm"
    ]


def test_a_rank_that_the_nodes_before_tell() -> None:
    body = "f = Flatten (x) p = MatMul (f, w) y = Add (p, b)"
    assert ops(check_pass(join_gemm, dense("n, 4, 1, 1", "n, 5", body, 5))) == ["Flatten", "Gemm"]


@pytest.mark.parametrize(
    ("shape", "result", "body", "bias"),
    [
        ("n, 3, 4", "n, 3, 5", DENSE, (5,)),  # a sequence: a Gemm takes two dimensions
        ("4", "5", DENSE, (5,)),
        ("3, 4", "3, 5", DENSE, (3, 1)),  # another value for each sample
        ("3, 4", "1, 3, 5", DENSE, (1, 1, 5)),  # raises the rank
        ("n, 4", "n, 5", "p = MatMul (x, w) r = Relu (p) y = Add (r, b)", (5,)),
        (
            "n, 4",
            "n, 5",
            "p = MatMul (x, w) s = Add (p, b) y = Mul (s, p)",
            (5,),
        ),  # the product is read twice
        ("n, 4", "n, 5", "p = Gemm (x, w) y = Add (p, b)", (5,)),  # fold_affine's
    ],
)
def test_others_stay(shape: str, result: str, body: str, bias: tuple[int, ...]) -> None:
    model = dense(shape, result, body, *bias)
    assert ops(check_pass(join_gemm, model)) == ops(model)


def test_a_product_that_is_an_output_stays() -> None:
    values: dict[str, Array] = {"w": np.ones((4, 5), np.float32), "b": np.ones(5, np.float32)}
    model = model_of(f"g (float[n, 4] x) => (float[n, 5] y, float[n, 5] p) {{ {DENSE} }}", **values)
    assert ops(check_pass(join_gemm, model)) == ["MatMul", "Add"]


def test_two_layers_may_share_a_bias() -> None:
    body = "p = MatMul (x, w) q = Add (p, b) z = MatMul (x, w) r = Add (z, b) y = Mul (q, r)"
    found = check_pass(join_gemm, dense("n, 4", "n, 5", body, 5))
    assert ops(found) == ["Gemm", "Gemm", "Mul"]
