import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.fold_factor_ahead import fold_factor_ahead
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)
SHAPES = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1), "u": (4, 4, 1, 1), "b": (4,), "k": (), "one": (), "half": ()}
VALUES = {"k": 0.3, "one": 1.0, "half": 0.5}


def folded(body: str) -> list[str]:
    used = [name for name in SHAPES if f" {name})" in body or f" {name}," in body or f"({name}," in body]
    constants = {n: np.asarray(VALUES.get(n, 0) or RNG.standard_normal(SHAPES[n]), np.float32) for n in used}
    text = f"g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {{ {body} }}"
    model: onnx.ModelProto = check_pass(fold_factor_ahead, model_of(text, **constants))
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("factor", ["Mul (t, k)", "Mul (k, t)", "Div (t, k)"])
def test_a_factor_goes_into_the_layer_behind(factor: str) -> None:
    assert folded(f"t = Tanh (x) m = {factor} y = Conv (m, w, b)") == ["Tanh", "Conv"]


def test_it_goes_past_a_sum_and_into_all_layers() -> None:
    body = "t = Tanh (x) m = Mul (t, k) a = Add (m, one) c = Conv (a, w) d = Conv (a, v) y = Sub (c, d)"
    assert "Mul" not in folded(body)


def test_it_goes_past_squeeze_and_excitation() -> None:
    body = """t = Tanh (x) m = Mul (t, k) p = GlobalAveragePool (m) g = Conv (p, v) s = Sigmoid (g)
        e = Mul (m, s) y = Conv (e, w)"""
    assert folded(body).count("Mul") == 1


@pytest.mark.parametrize(
    "body",
    [
        "t = Tanh (x) m = Mul (t, k) c = Conv (m, w) y = Add (c, m)",  # a sum with what it is not in
        "t = Tanh (x) y = Mul (t, k)",
        "t = Tanh (x) m = Mul (t, k) s = Sigmoid (m) y = Conv (s, w)",  # not linear
        "t = Tanh (x) m = Mul (t, k) s = Mul (m, m) y = Conv (s, w)",  # brought twice
        "t = Tanh (x) m = Mul (t, k) c = Conv (m, w) d = Conv (x, w) y = Add (c, d)",  # a weight that others read
        "t = Tanh (x) p = GlobalAveragePool (t) m = Mul (p, k) c = MatMul (m, m) y = Mul (t, c)",
        "e = Erf (x) a = Add (e, one) p = Mul (x, a) m = Mul (p, half) y = Conv (m, w)",  # GELU
        "e = Erf (x) a = Add (e, one) m = Mul (x, half) p = Mul (m, a) y = Conv (p, w)",
    ],
)
def test_it_stays_where_a_way_ends_elsewhere(body: str) -> None:
    before = body.count(" = ")
    assert len(folded(body)) == before


def test_a_weight_that_is_read_twice_by_one_layer_stays() -> None:
    assert "Mul" in folded("t = Tanh (x) m = Mul (t, k) y = Conv (m, w) z = Identity (w)")
