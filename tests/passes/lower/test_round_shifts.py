import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.passes.lower.round_shifts import RoundShifts
from onnxmpq.testing import check_pass, model_of, run
from onnxmpq.values.activation_range import ActivationRange

RNG = np.random.default_rng(0)
STEP = 0.05
ROUND = RoundShifts({"a": ActivationRange(STEP, 80)})


def rounded(body: str, shift: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    constants = {"w": RNG.standard_normal((4, 4, 3, 3)), "b": RNG.standard_normal(4), "k": np.full(1, shift)}
    used = {n: v.astype(np.float32) for n, v in constants.items() if f", {n}" in body}
    model = model_of(f"g (float[1, 4, 8, 8] x) => (float[1, 4, M, N] y) {{ {body} }}", **used)
    return model, check_pass(ROUND, model, kind="lowering")


def shift_of(model: onnx.ModelProto) -> float:
    return float(next(numpy_helper.to_array(i) for i in model.graph.initializer if i.name == "k").item())


@pytest.mark.parametrize("shift", [0.371, -0.233, 0.01])
def test_a_shift_is_a_number_of_steps_and_the_bias_takes_the_rest(shift: float) -> None:
    model, changed = rounded("a = Add (x, k) y = Conv (a, w, b)", shift)
    assert shift_of(changed) == pytest.approx(round(shift / STEP) * STEP)
    feeds = {"x": RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(changed, feeds)["y"], run(model, feeds)["y"], rtol=1e-4, atol=1e-4)


def test_only_the_borders_of_a_padding_layer_are_off_and_by_half_a_step_at_most() -> None:
    model, changed = rounded("a = Add (x, k) y = Conv <pads = [1, 1, 1, 1]> (a, w, b)", 0.371)
    feeds = {"x": RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)}
    off = np.abs(run(changed, feeds)["y"] - run(model, feeds)["y"])
    assert off[:, :, 1:-1, 1:-1].max() < 1e-4 < off.max()
    weight = next(numpy_helper.to_array(i) for i in model.graph.initializer if i.name == "w")
    assert off.max() <= STEP / 2 * np.abs(weight).sum(axis=(1, 2, 3)).max()


@pytest.mark.parametrize(
    ("body", "shift"),
    [
        ("a = Add (x, k) y = Conv (a, w, b)", 7 * STEP),
        ("a = Add (x, k) y = Conv (a, w)", 0.371),  # no bias
        ("a = Add (x, k) y = GlobalAveragePool (a)", 0.371),
        ("q = Add (x, k) y = Conv (q, w, b)", 0.371),  # not quantized
    ],
)
def test_other_shifts_stay(body: str, shift: float) -> None:
    assert shift_of(rounded(body, shift)[1]) == np.float32(shift)
