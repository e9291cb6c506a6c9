from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.metrics.metric import probabilities
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.passes.expose.emit_tangents import EmitTangents
from onnxmpq.testing import model_of, run
from onnxmpq.values.score import OutputKind

ENDS = {
    OutputKind.LOGITS: "Identity", OutputKind.PROBABILITIES: "Softmax", OutputKind.LOG_PROBABILITIES: "LogSoftmax",
    OutputKind.INDEPENDENT: "Sigmoid",
}  # fmt: skip


def model_with(kind: OutputKind, dtype: str = "float") -> onnx.ModelProto:
    """The projection's gradient with respect to the output, and the projection; fed signs."""
    text = f"g ({dtype}[N, C] x) => ({dtype}[N, C] y) {{ y = {ENDS[kind]} (x) }}"
    model = model_of(text)
    graph = import_graph(model)
    EmitLoss(Loss.PROJECTION, {"y": kind})(graph)
    EmitGradients(LOSS, ("y",), {"y": (None, None)})(graph)
    assert EmitTangents({"y": kind})(graph)
    result = export_model(graph, model)
    onnx.checker.check_model(result)
    return result


def tangents(kind: OutputKind, x: Any, signs: Any) -> tuple[Any, Any]:
    """(sqrt(p), v), [N, outcomes]: v from the gradient of <v, 2 sqrt(p)> that comes back to the output."""
    found = run(model_with(kind), {"x": x, target_name("y"): signs})
    y, gradient = found["y"].astype(np.float64), found[gradient_name("y")].astype(np.float64)
    p = probabilities(y, kind)
    if kind is OutputKind.PROBABILITIES:  # d 2 sqrt(p) / dp = 1 / sqrt(p)
        return np.sqrt(p), gradient * np.sqrt(p)
    assert kind is OutputKind.LOG_PROBABILITIES  # d 2 sqrt(p) / dlog p = sqrt(p)
    return np.sqrt(p), gradient / np.sqrt(p)


def signs_of(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype), shape)


@pytest.mark.parametrize("kind", [OutputKind.PROBABILITIES, OutputKind.LOG_PROBABILITIES])
def test_tangents_have_the_covariance_of_the_tangent_plane(kind: OutputKind) -> None:
    p = np.array([0.05, 0.5, 0.3, 0.15])
    x = np.tile(np.log(p).astype(np.float32), (40_000, 1))
    roots, drawn = tangents(kind, x, signs_of(x.shape))
    np.testing.assert_allclose((roots * drawn).sum(axis=1), 0, atol=1e-5)
    covariance = drawn.T @ drawn / len(drawn)
    np.testing.assert_allclose(covariance, np.eye(4) - np.sqrt(np.outer(p, p)), atol=0.02)
    np.testing.assert_allclose((drawn**2).sum(axis=1), 3, rtol=1e-4)  # an orthonormal basis of the plane


def test_of_two_classes_nothing_is_left_to_chance() -> None:
    x = np.log(np.tile(np.array([0.3, 0.7], np.float32), (10, 1)))
    _, drawn = tangents(OutputKind.PROBABILITIES, x, signs_of(x.shape))
    np.testing.assert_allclose(np.abs(drawn), np.tile(np.sqrt([0.7, 0.3]), (10, 1)), rtol=1e-5)


def test_one_class_that_is_certain_has_finite_tangents() -> None:
    x = np.array([[0, 200, -300], [90, 0, 0]], np.float32)
    found = run(model_with(OutputKind.LOGITS), {"x": x, target_name("y"): signs_of(x.shape)})
    assert all(np.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.INDEPENDENT])
def test_squared_slopes_are_the_fisher_metric(kind: OutputKind) -> None:
    """E <v, J dx>^2 = sum (dp)^2 / p over the outcomes: twice the KL of a small change."""
    x = np.tile(np.array([0.3, -1.0, 0.8], np.float32), (60_000, 1))
    dx = np.array([0.5, 1.0, -0.7])
    found = run(model_with(kind), {"x": x, target_name("y"): signs_of(x.shape)})
    y = found["y"][0].astype(np.float64)
    if kind is OutputKind.LOGITS:
        p = np.exp(y) / np.exp(y).sum()
        wanted = (p * dx**2).sum() - (p * dx).sum() ** 2
    else:  # dx moves the probabilities themselves
        wanted = (dx**2 / (y * (1 - y))).sum()
    slopes = found[gradient_name("y")].astype(np.float64) @ dx
    assert np.mean(slopes**2) == pytest.approx(wanted, rel=0.02)


def test_half_precision_is_summed_in_single() -> None:
    x = np.random.default_rng(1).standard_normal((8, 300)).astype(np.float16)
    signs = signs_of(x.shape, np.float16)
    half = run(model_with(OutputKind.LOGITS, "float16"), {"x": x, target_name("y"): signs})
    full = run(
        model_with(OutputKind.LOGITS),
        {"x": x.astype(np.float32), target_name("y"): signs.astype(np.float32)},
    )
    name = gradient_name("y")
    assert half[name].dtype == np.float16
    np.testing.assert_allclose(half[name], full[name], atol=0.02)


def test_an_output_without_a_target_is_named() -> None:
    graph = import_graph(model_of("g (float[N, 5] x) => (float[N, 5] y) { y = Identity (x) }"))
    with pytest.raises(ModelError, match="output 'y' has no target"):
        EmitTangents({"y": OutputKind.LOGITS})(graph)
    assert not EmitTangents({})(graph)
