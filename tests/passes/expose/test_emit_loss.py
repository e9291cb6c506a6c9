from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.metrics.metric import kl_divergence, probabilities
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.testing import model_of, run
from onnxmpq.values.score import OutputKind

ENDS = {
    OutputKind.LOGITS: "Identity", OutputKind.PROBABILITIES: "Softmax", OutputKind.LOG_PROBABILITIES: "LogSoftmax",
    OutputKind.INDEPENDENT: "Sigmoid",
}  # fmt: skip
X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def ending(kind: OutputKind) -> onnx.ModelProto:
    return model_of(f"g (float[N, 5] x) => (float[N, 5] y) {{ y = {ENDS.get(kind, 'Identity')} (x) }}")


def emitted(model: onnx.ModelProto, loss: Loss, kind: OutputKind, *wanted: str) -> onnx.ModelProto:
    graph = import_graph(model)
    assert EmitLoss(loss, {"y": kind})(graph)
    assert not EmitLoss(loss, {"y": kind})(graph)
    if wanted:
        assert EmitGradients(LOSS, wanted, {})(graph)
    result = export_model(graph, model)
    onnx.checker.check_model(result)
    return result


def loss_of(model: onnx.ModelProto, target: Any, x: Any = X) -> float:
    return float(run(model, {"x": x, target_name("y"): target})[LOSS])


@pytest.mark.parametrize("kind", ENDS)
def test_divergence_is_that_of_the_metric(kind: OutputKind) -> None:
    model = ending(kind)
    reference, output = (run(model, {"x": v})["y"] for v in (Y, X))
    found = loss_of(emitted(model, Loss.KL, kind), reference)
    assert found == pytest.approx(kl_divergence(reference, output, kind).sum(), rel=1e-4)
    assert loss_of(emitted(model, Loss.KL, kind), output) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ENDS)
def test_cross_entropy_of_classes(kind: OutputKind) -> None:
    model, labels = ending(kind), np.array([0, 4, 2, 2])
    p = probabilities(run(model, {"x": X})["y"], kind)
    rows = np.arange(4)
    if kind is OutputKind.INDEPENDENT:
        truth = np.eye(5)[labels]
        expected = -np.log(np.where(truth, p[..., 0], p[..., 1])).sum()
    else:
        expected = -np.log(p[rows, labels]).sum()
    assert loss_of(emitted(model, Loss.CROSS_ENTROPY, kind), labels) == pytest.approx(expected, rel=1e-5)


def test_squared_error() -> None:
    model = ending(OutputKind.VALUES)
    assert loss_of(emitted(model, Loss.SQUARED_ERROR, OutputKind.VALUES), Y) == pytest.approx(
        ((X - Y) ** 2).sum()
    )


def target_of(loss: Loss, kind: OutputKind) -> Any:
    rng = np.random.default_rng(2)
    if loss is Loss.CROSS_ENTROPY:
        return np.array([0, 4, 2, 2])
    if loss is Loss.PROJECTION:
        return rng.standard_normal((4, 10 if kind is OutputKind.INDEPENDENT else 5)).astype(np.float32)
    return run(ending(kind), {"x": Y})["y"]


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("kind", ENDS)
def test_gradients_are_differences(loss: Loss, kind: OutputKind) -> None:
    model, target = emitted(ending(kind), loss, kind, "x"), target_of(loss, kind)
    gradient = run(model, {"x": X, target_name("y"): target})["x/gradient"]
    for index in np.ndindex(X.shape):
        step = np.zeros_like(X)
        step[index] = 2**-6
        slope = (loss_of(model, target, X + step) - loss_of(model, target, X - step)) * 2**5
        assert gradient[index] == pytest.approx(slope, abs=2e-3)


def test_the_length_of_the_projections_is_twice_the_divergence() -> None:
    """In the coordinates of the projection a small step has the squared length 2 KL."""
    model, step = ending(OutputKind.LOGITS), 0.02 * Y
    projecting = emitted(model, Loss.PROJECTION, OutputKind.LOGITS)
    squares = 0.0
    for row, column in np.ndindex(4, 5):
        target = np.zeros((4, 5), np.float32)
        target[row, column] = 1
        squares += (loss_of(projecting, target, X + step) - loss_of(projecting, target)) ** 2
    divergence = kl_divergence(X, X + step, OutputKind.LOGITS).sum()
    assert squares == pytest.approx(2 * divergence, rel=0.05)


def test_likely_classes_alone_have_no_nan() -> None:
    sure = np.array([[1000, 0, -1000, 0, 0]], np.float32)
    for loss in (Loss.KL, Loss.PROJECTION):
        model = emitted(ending(OutputKind.LOGITS), loss, OutputKind.LOGITS, "x")
        found = run(model, {"x": sure, target_name("y"): sure})
        assert np.isfinite(found["x/gradient"]).all()


def test_probabilities_that_underflow_have_a_finite_divergence() -> None:
    kind = OutputKind.PROBABILITIES
    logits = np.array([[0, 0, -200, -200, -200]], np.float32)
    target = np.array([[0.5, 0.5, 0, 0, 0]], np.float32)
    assert run(ending(kind), {"x": logits})["y"][0, -1] == 0
    model = emitted(ending(kind), Loss.KL, kind, "x")
    found = run(model, {"x": logits, target_name("y"): target})
    assert found[LOSS] == pytest.approx(0, abs=1e-5)
    assert np.isfinite(found["x/gradient"]).all()


def test_old_outputs_stay_and_what_cannot_be_is_refused() -> None:
    model = ending(OutputKind.LOGITS)
    found = run(emitted(model, Loss.KL, OutputKind.LOGITS), {"x": X, target_name("y"): Y})
    np.testing.assert_array_equal(found["y"], run(model, {"x": X})["y"])
    with pytest.raises(ModelError, match="no output 'z'; it has y"):
        EmitLoss(Loss.KL, {"z": OutputKind.LOGITS})(import_graph(model))
    with pytest.raises(ModelError, match="'y' holds values"):
        EmitLoss(Loss.KL, {"y": OutputKind.VALUES})(import_graph(model))
