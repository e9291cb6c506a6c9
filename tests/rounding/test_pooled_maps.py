"""Which layers read the mean over a map."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.rounding.pooled_maps import pooled_maps
from onnxmpq.testing import model_of


def found(body: str) -> dict[str, str]:
    constants = {
        "w": np.ones((4, 2), np.float32), "k": np.ones((2, 4, 1, 1), np.float32),
        "s": np.array(0.1, np.float32), "flat": np.array([0, -1]),
    }  # fmt: skip
    used = {
        name: value
        for name, value in constants.items()
        if f" {name}" in body.replace(",", " ").replace("(", " ")
    }
    head = "g (float[N, 4, 3, 3] x) => (float[N, 2] y)"
    return pooled_maps(model_of(f"{head} {{ a = Relu (x) {body} }}", **used), ["w", "k"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = GlobalAveragePool (a) f = Flatten (p) y = MatMul (f, w)", {"w": "a"}),
        ("p = GlobalAveragePool (a) f = Reshape (p, flat) i = Identity (f) y = MatMul (i, w)", {"w": "a"}),
        ("p = GlobalAveragePool (a) c = Conv (p, k) y = Flatten (c)", {"k": "a"}),
        (
            "p = GlobalAveragePool (a) q = QuantizeLinear (p, s) d = DequantizeLinear (q, s) f = Flatten (d) y = MatMul (f, w)",
            {"w": "a"},
        ),
        ("p = GlobalAveragePool (a) r = Relu (p) f = Flatten (r) y = MatMul (f, w)", {}),
        ("p = GlobalMaxPool (a) f = Flatten (p) y = MatMul (f, w)", {}),
        ("c = Conv (a, k) p = GlobalAveragePool (c) y = Flatten (p)", {}),
        ("p = GlobalAveragePool (a) f = Flatten (p) b = MatMul (f, w) c = MatMul (f, w) y = Add (b, c)", {}),
        ("p = GlobalAveragePool (x) f = Flatten (p) y = MatMul (f, w)", {"w": "x"}),
    ],
)
def test_the_map_before_a_layer(body: str, expected: dict[str, str]) -> None:
    assert found(body) == expected
