import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.join_hard_sigmoid import join_hard_sigmoid
from onnxmpq.testing import check_pass, model_of

CONSTANTS = {"three": 3, "six": 6, "zero": 0, "sixth": 1 / 6, "one": 1, "half": 0.5}


def joined(body: str, kind: str = "float") -> onnx.ModelProto:
    dtype = np.dtype({"float": "float32", "double": "float64"}[kind])
    constants = {n: np.asarray(v, dtype) for n, v in CONSTANTS.items() if f" {n}" in body or f"({n}" in body}
    text = f"g ({kind}[2, 4, 8] x) => ({kind}[2, 4, 8] y) {{ {body} }}"
    feeds = {"x": np.linspace(-8, 8, 64).reshape(2, 4, 8).astype(dtype)}
    return check_pass(join_hard_sigmoid, model_of(text, **constants), feeds)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("scale", ["Div (m, six)", "Mul (m, sixth)", "Mul (sixth, m)"])
@pytest.mark.parametrize("add", ["Add (x, three)", "Add (three, x)"])
def test_hard_swish_written_out(add: str, scale: str) -> None:
    model = joined(f"a = {add} c = Clip (a, zero, six) m = Mul (x, c) y = {scale}")
    assert ops(model) == ["HardSigmoid", "Mul"]
    alpha, beta = (attribute.f for attribute in model.graph.node[0].attribute)
    assert (alpha, beta) == (pytest.approx(1 / 6), 0.5)


def test_hard_sigmoid_written_out() -> None:
    assert ops(joined("a = Add (x, three) c = Clip (a, zero, six) y = Div (c, six)")) == ["HardSigmoid"]


def test_the_factor_may_stand_before_the_product() -> None:
    text = "a = Add (x, three) c = Clip (a, zero, six) d = Div (c, six) y = Mul (x, d)"
    assert ops(joined(text)) == ["HardSigmoid", "Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Add (x, three) c = Clip (a, zero, six) m = Mul (x, c) y = Div (m, three)",  # no share
        "a = Add (x, three) c = Clip (a, zero, six) m = Mul (x, c) d = Div (m, six) y = Add (d, m)",  # read twice
        "a = Add (x, three) c = Clip (a, zero, six) d = Div (c, six) y = Add (d, a)",  # so is the sum
        "a = Add (x, three) c = Clip (a, one, six) y = Div (c, six)",  # clips elsewhere
        "c = Clip (x, zero, six) y = Div (c, six)",  # adds nothing
    ],
)
def test_what_is_something_else_is_left(body: str) -> None:
    assert "HardSigmoid" not in ops(joined(body))


def test_double_precision_is_left() -> None:
    assert "Clip" in ops(joined("a = Add (x, three) c = Clip (a, zero, six) y = Div (c, six)", "double"))
