"""A Gemm's alpha and beta become part of its constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmpq.engine import Array
from onnxmpq.passes.fold_gemm_factors import FoldGemmFactors
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)
CONSTANTS: dict[str, Array] = {
    "w": RNG.standard_normal((4, 5)).astype(np.float32),
    "b": RNG.standard_normal(5).astype(np.float32),
}


def folded(body: str, **constants: Array) -> onnx.ModelProto:
    model = model_of(f"g (float[3, 4] x) => (float[3, 5] y) {{ {body} }}", **(constants or CONSTANTS))
    return check_pass(FoldGemmFactors(), model)


def factors(model: onnx.ModelProto) -> list[dict[str, float]]:
    """What is left of alpha and beta, a node each."""
    nodes = (node for node in model.graph.node if node.op_type == "Gemm")
    return [{a.name: helper.get_attribute_value(a) for a in n.attribute if a.name != "transB"} for n in nodes]


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), ()])
def test_both_factors(shape: tuple[int, ...]) -> None:
    bias = np.asarray(RNG.standard_normal(shape), np.float32)
    found = folded("y = Gemm <alpha = 0.5, beta = 3.0> (x, w, b)", w=CONSTANTS["w"], b=bias)
    assert factors(found) == [{}]
    values = {i.name: numpy_helper.to_array(i) for i in found.graph.initializer}
    assert np.array_equal(values["w"], CONSTANTS["w"] * 0.5)
    assert np.array_equal(values["b"], bias * 3)


def test_a_bias_of_two_is_copied_and_one_of_none_forgotten() -> None:
    found = folded(
        "h = Gemm <beta = 2.0> (x, w, b)  k = Gemm <beta = 2.0> (x, w)  s = Add (h, k)  y = Add (s, b)"
    )
    assert factors(found) == [{}, {}]
    assert sorted(i.name for i in found.graph.initializer) == ["b", "b_1", "w"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = Gemm (x, w, b)", {}),
        ("c = Relu (b)  y = Gemm <beta = 2.0> (x, w, c)", {"beta": 2.0}),  # the bias is computed
        ("v = Relu (w)  y = Gemm <alpha = 2.0> (x, v, b)", {"alpha": 2.0}),
    ],
)
def test_others_stay(body: str, left: dict[str, float]) -> None:
    assert factors(folded(body)) == [left]


def test_a_shared_weight_stays() -> None:
    found = folded("h = Gemm <alpha = 2.0> (x, w)  k = Gemm (x, w, b)  y = Add (h, k)")
    assert factors(found) == [{"alpha": 2.0}, {}]


def test_a_product_that_does_not_fit_stays() -> None:
    weight = np.full((4, 5), 6e4, np.float16)
    text = "g (float16[3, 4] x) => (float16[3, 5] y) { y = Gemm <alpha = 2.0> (x, w) }"
    feeds: dict[str, Array] = {"x": np.full((3, 4), 1e-3, np.float16)}
    assert factors(check_pass(FoldGemmFactors(), model_of(text, w=weight), feeds)) == [{"alpha": 2.0}]
