import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.clamp_hard_sigmoid import clamp_hard_sigmoid
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)
CONSTANTS = {"w": (4, 4, 1, 1), "b": (4,)}


def clamped(body: str) -> onnx.ModelProto:
    constants = {
        n: RNG.standard_normal(s).astype(np.float32) for n, s in CONSTANTS.items() if f", {n}" in body
    }
    return check_pass(
        clamp_hard_sigmoid,
        model_of(f"g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {{ {body} }}", **constants),
    )


@pytest.mark.parametrize("layer", ["Conv (x, w)", "Conv (x, w, b)"])
@pytest.mark.parametrize("gate", ["HardSigmoid", "HardSigmoid <alpha = 0.5, beta = 0.25>"])
def test_a_gate_is_a_layer_and_a_clamp(layer: str, gate: str) -> None:
    model = clamped(f"c = {layer} h = {gate} (c) y = Mul (x, h)")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Clip", "Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv (x, w) y = HardSigmoid (c)",  # an output, whose kind is told by it
        "c = Conv (x, w) h = HardSigmoid (c) y = Mul (c, h)",  # hard swish reads the layer's result, too
        "h = HardSigmoid (x) y = Mul (x, h)",
    ],
)
def test_others_are_left(body: str) -> None:
    assert "HardSigmoid" in [node.op_type for node in clamped(body).graph.node]
