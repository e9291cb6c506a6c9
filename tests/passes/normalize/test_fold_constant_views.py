import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.fold_constant_views import fold_constant_views
from onnxmpq.testing import check_pass, model_of

SHAPE = np.array([1, -1, 1, 1])


def folded(text: str) -> onnx.ModelProto:
    body = f"g (float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y) {{ {text} }}"
    constants = {"b": np.arange(4, dtype=np.float32), "shape": SHAPE, "axes": np.array([1, 2])}
    used = {name: values for name, values in constants.items() if name in text}
    return check_pass(fold_constant_views, model_of(body, **used), decibels=np.inf)


@pytest.mark.parametrize("view", ["Reshape (b, shape)", "Unsqueeze (b, axes)"])
def test_a_bias_that_is_reshaped_is_a_constant(view: str) -> None:
    assert [n.op_type for n in folded(f"r = {view} y = Add (x, r)").graph.node] == ["Add"]


def test_what_others_read_as_well_is_held_once() -> None:
    model = folded("r = Reshape (b, shape) s = ReduceSum (b) a = Add (x, r) y = Add (a, s)")
    assert "Reshape" in [n.op_type for n in model.graph.node]


def test_a_view_of_what_is_computed_is_left() -> None:
    text = "n = Shape (x) r = Reshape (x, n) y = Neg (r)"
    assert [n.op_type for n in folded(text).graph.node] == ["Shape", "Reshape", "Neg"]
