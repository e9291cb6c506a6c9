import numpy as np
import pytest

from onnxmpq.passes.normalize.fold_shift_ahead import fold_shift_ahead
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)


def folded(body: str) -> list[str]:
    constants = {
        "w": RNG.standard_normal((4, 2, 3, 3)), "v": RNG.standard_normal((4, 4, 1, 1)), "b": RNG.standard_normal(4),
        "k": np.full((1,), 0.7),
    }  # fmt: skip
    used = {n: v.astype(np.float32) for n, v in constants.items() if f", {n}" in body or f"({n}," in body}
    model = model_of(f"g (float[1, 4, 6, 6] x) => (float[1, 4, M, N] y) {{ {body} }}", **used)
    return [node.op_type for node in check_pass(fold_shift_ahead, model).graph.node]


@pytest.mark.parametrize("layer", ["Conv <group = 2> (a, w)", "Conv <group = 2> (a, w, b)", "Conv (a, v, b)"])
@pytest.mark.parametrize("add", ["Add (t, k)", "Add (k, t)"])
def test_a_scalar_goes_into_the_bias_behind(add: str, layer: str) -> None:
    assert folded(f"t = Tanh (x) a = {add} y = {layer}") == ["Tanh", "Conv"]


def test_it_goes_into_all_layers_that_read_it() -> None:
    assert "Add" not in folded(
        "t = Tanh (x) a = Add (t, k) c = Conv (a, v) d = Conv (a, v, b) y = Sub (c, d)"
    )


@pytest.mark.parametrize(
    "body",
    [
        "t = Tanh (x) a = Add (t, k) y = Conv <group = 2, pads = [1, 1, 1, 1]> (a, w)",  # zeros are padded behind the sum
        'a = Add (x, k) y = Conv <group = 2, auto_pad = "SAME_UPPER"> (a, w)',
        "t = Tanh (x) a = Add (t, k) c = Conv (a, v) y = Mul (c, a)",
        "t = Tanh (x) y = Add (t, k)",
    ],
)
def test_it_stays_where_others_read_it_or_a_layer_pads(body: str) -> None:
    assert "Add" in folded(body)
