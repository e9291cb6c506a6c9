"""Which layer a factor on the logits goes to."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.requantize.logit_scale import logit_layer
from onnxmpq.testing import model_of
from onnxmpq.values.layer import Layer

CONSTANTS: dict[str, NDArray[Any]] = {
    "w": np.ones((5, 4), np.float32), "b": np.ones(5, np.float32), "k": np.ones((5, 2, 1, 1), np.float32),
    "u": np.ones((4, 4), np.float32), "i": np.zeros(3, np.int64),
}  # fmt: skip
VECTOR, MAP = "g (float[N, 4] x) => (float[N, 5] y)", "g (float[N, 2, 2, 2] x) => (float[N, 5, 1, 1] y)"


def found(head: str, body: str) -> Layer | None:
    names = {name: value for name, value in CONSTANTS.items() if re.search(rf"[(, ]{name}[,)]", body)}
    model = model_of(f"{head} {{ {body} }}", **names)
    return logit_layer(model, "y", discover(import_graph(model), {}))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (VECTOR, "y = Gemm <transB = 1> (x, w, b)"),
        (VECTOR, "h = Gemm <transB = 1> (x, w, b) y = Softmax (h)"),
        (VECTOR, "h = MatMul (x, u) t = Relu (h) a = Gemm <transB = 1> (t, w, b) y = LogSoftmax (a)"),
        (MAP, "h = Conv (x, k, b) r = Relu (h) y = GlobalAveragePool (r)"),
    ],
)
def test_the_last_layer(head: str, body: str) -> None:
    layer = found(head, body)
    assert layer is not None
    assert layer.weight in {"w", "k"}


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (VECTOR, "h = Gemm <transB = 1> (x, w, b) y = Sigmoid (h)"),  # no temperature of it
        (VECTOR, "h = Gemm <transB = 1> (x, w, b) y = Clip (h)"),
        (VECTOR, "h = Gemm <transB = 1> (x, w, b) n = Neg (h) y = Add (h, n)"),
        (VECTOR, "h = Gemm <transB = 1> (x, w) y = Add (h, h)"),
    ],
)
def test_no_layer_where_something_else_happens_on_the_way(head: str, body: str) -> None:
    assert found(head, body) is None


@pytest.mark.parametrize(
    "body",
    [
        "h = Conv (x, k, b) s = Softmax <axis = 1> (h) y = GlobalAveragePool (s)",  # no logits
        "h = Conv (x, k, b) s = Softmax <axis = 1> (h) y = Softmax <axis = 1> (s)",
    ],
)
def test_a_softmax_stands_last_and_once(body: str) -> None:
    assert found(MAP, body) is None


def test_no_layer_whose_constants_others_read() -> None:
    assert (
        found(VECTOR, "h = Gemm <transB = 1> (x, w, b) e = Gather (w, i) y = Gemm <transB = 1> (e, w, b)")
        is None
    )
    assert found(VECTOR, "c = Neg (b) y = Gemm <transB = 1> (x, w, b) z = Neg (c)") is None
