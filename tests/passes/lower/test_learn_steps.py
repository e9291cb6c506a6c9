import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.lower.learn_steps import LearnSteps, step_input
from onnxmpq.testing import model_of, run

RNG = np.random.default_rng(0)
V, W = (RNG.standard_normal((3, 3)).astype(np.float32) for _ in range(2))
MODEL = model_of(
    "g (float[N, 3] x) => (float[N, 3] y) { a = MatMul (x, v)  b = Relu (a)  y = MatMul (b, w) }", v=V, w=W
)
X = RNG.standard_normal((5, 3)).astype(np.float32)


def learned(*weights: str, trained: bool = False) -> onnx.ModelProto:
    graph = gs.import_onnx(MODEL)
    rewrite = LearnSteps(weights, trained)
    assert rewrite(graph)
    assert not rewrite(graph)
    model: onnx.ModelProto = gs.export_onnx(graph)
    return model


def feeds(weight: str, role: str, step: float, low: float, high: float) -> dict[str, np.ndarray]:
    values = {"step": step, "low": low, "high": high}
    return {step_input(weight, role, what): np.array(v, np.float32) for what, v in values.items()}  # type: ignore[arg-type]


def rounded(values: np.ndarray, step: float, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint(values / np.float32(step)), low, high) * np.float32(step)


def test_weights_and_what_they_multiply_are_rounded_to_steps() -> None:
    given = {"x": X, **feeds("w", "weight", 0.3, -4, 3), **feeds("w", "activation", 0.25, 0, 7)}
    found = run(learned("w"), given)["y"]
    expected = rounded(np.maximum(X @ V, 0), 0.25, 0, 7) @ rounded(W, 0.3, -4, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_trained_weights_are_inputs() -> None:
    model = learned("w", trained=True)
    given = {"x": X, **feeds("w", "weight", 0.3, -4, 3), **feeds("w", "activation", 1e-4, -1e6, 1e6)}
    found = run(model, {**given, "w": 2 * W})["y"]
    np.testing.assert_allclose(found, np.maximum(X @ V, 0) @ rounded(2 * W, 0.3, -4, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weights", [(), ("nowhere",), ("x",)])
def test_nothing_to_learn(weights: tuple[str, ...]) -> None:
    assert not LearnSteps(weights)(gs.import_onnx(MODEL))
