"""Every layer has a bias vector that is its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.passes.normalize.own_bias import own_bias
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

RNG = np.random.default_rng(0)


def values(*shape: int) -> Array:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def owned(body: str, **constants: Array) -> onnx.ModelProto:
    model = model_of(f"g (float[3, 5] x) => (float[3, 5] y) {{ {body} }}", **constants)
    return check_pass(own_bias, model, decibels=1000.0)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {i.name: tuple(i.dims) for i in model.graph.initializer}


@pytest.mark.parametrize("shape", [(1, 5), (1, 1), (1,), ()])
@pytest.mark.parametrize("turned", [0, 1])
def test_a_bias_of_any_shape_becomes_a_vector(shape: tuple[int, ...], turned: int) -> None:
    weight = values(5, 5)
    found = owned(f"y = Gemm <transB = {turned}> (x, w, b)", w=weight, b=values(*shape))
    assert shapes(found) == {"w": (5, 5), "b": (5,)}


def test_layers_that_share_a_bias_get_one_each() -> None:
    body = "h = Gemm (x, v, b)  k = Gemm (h, w, b)  y = Add (k, b)"
    found = owned(body, v=values(5, 5), w=values(5, 5), b=values(5))
    biases = [node.input[2] for node in found.graph.node if node.op_type == "Gemm"]
    assert len({*biases, "b"}) == 3
    assert all(shapes(found)[name] == (5,) for name in biases)


def test_convolutions_that_share_a_bias_get_one_each() -> None:
    text = "g (float[n, 3, 4, 4] x) => (float[n, 3, 4, 4] y) { h = Conv (x, v, b)  y = Conv (h, w, b) }"
    model = model_of(text, v=values(3, 3, 1, 1), w=values(3, 3, 1, 1), b=values(3))
    found = check_pass(own_bias, model, decibels=1000.0)
    assert len({node.input[2] for node in found.graph.node}) == 2


@pytest.mark.parametrize("shape", [(5,), (1, 5), ()])
def test_it_takes_beta(shape: tuple[int, ...]) -> None:
    bias = values(*shape)
    found = owned("y = Gemm <beta = 2.0> (x, w, b)", w=values(5, 5), b=bias)
    assert not found.graph.node[0].attribute
    (own,) = [numpy_helper.to_array(i) for i in found.graph.initializer if i.name == "b"]
    assert np.array_equal(own, np.broadcast_to(2 * bias.ravel(), 5))


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        ("y = Gemm (x, w, b)", (5,)),
        ("y = Gemm (x, w, b)", (3, 1)),  # another value for each sample
        ("y = Gemm (x, w, b)", (3, 5)),
        ("y = Gemm <beta = 2.0> (x, w, b)", (3, 5)),
        ("c = Relu (b)  y = Gemm (x, w, c)", (1, 5)),
        ("v = Relu (w)  y = Gemm (x, v, b)", (1, 5)),
        ("h = Gemm (x, w, b)  y = Gemm (h, w, b)", (1, 5)),  # one weight for both
        ("h = Gemm (x, w)  y = Add (h, b)", (1, 5)),
    ],
)
def test_others_stay(body: str, bias: tuple[int, ...]) -> None:
    assert shapes(owned(body, w=values(5, 5), b=values(*bias))) == {"w": (5, 5), "b": bias}
