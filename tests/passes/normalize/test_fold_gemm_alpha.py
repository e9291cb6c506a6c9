"""A Gemm's alpha becomes part of its weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmpq.passes.normalize.fold_gemm_alpha import fold_gemm_alpha
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

RNG = np.random.default_rng(0)
CONSTANTS: dict[str, Array] = {
    "w": RNG.standard_normal((4, 5)).astype(np.float32),
    "b": RNG.standard_normal(5).astype(np.float32),
}


def folded(body: str) -> onnx.ModelProto:
    model = model_of(f"g (float[3, 4] x) => (float[3, 5] y) {{ {body} }}", **CONSTANTS)
    return check_pass(fold_gemm_alpha, model)


def factors(model: onnx.ModelProto) -> list[dict[str, float]]:
    """What is left of alpha and beta, a node each."""
    nodes = (node for node in model.graph.node if node.op_type == "Gemm")
    return [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in nodes]


def test_the_weight_takes_it() -> None:
    found = folded("y = Gemm <alpha = 0.5, beta = 3.0> (x, w, b)")
    assert factors(found) == [{"beta": 3.0}]  # own_bias takes that
    values = {i.name: numpy_helper.to_array(i) for i in found.graph.initializer}
    assert np.array_equal(values["w"], CONSTANTS["w"] * 0.5)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = Gemm (x, w, b)", [{}]),
        ("v = Relu (w)  y = Gemm <alpha = 2.0> (x, v, b)", [{"alpha": 2.0}]),
        ("h = Gemm <alpha = 2.0> (x, w)  k = Gemm (x, w, b)  y = Add (h, k)", [{"alpha": 2.0}, {}]),
    ],
)
def test_others_stay(body: str, left: list[dict[str, float]]) -> None:
    assert factors(folded(body)) == left


@pytest.mark.parametrize(("value", "alpha"), [(6e4, 2.0), (1e-3, 1e-4)])
def test_a_product_that_halves_cannot_hold_stays(value: float, alpha: float) -> None:
    weight = np.full((4, 5), value, np.float16)
    text = f"g (float16[3, 4] x) => (float16[3, 5] y) {{ y = Gemm <alpha = {alpha}> (x, w) }}"
    feeds: dict[str, Array] = {"x": np.full((3, 4), 1e-3, np.float16)}
    (left,) = factors(check_pass(fold_gemm_alpha, model_of(text, w=weight), feeds))
    assert left["alpha"] == pytest.approx(alpha)
