"""Softmax and the normalizations. x is the input, y the output, g the gradient with respect to y."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import attribute, require


def softmax(step: Step) -> gs.Tensor:
    """y (g - sum g y) along the axis."""
    e, g, y = step.emit, step.gradient, step.output
    inner = e.sum(e("Mul", g, y), [attribute(step.node, "axis", -1)])
    return e("Mul", y, e("Sub", g, inner))


def log_softmax(step: Step) -> gs.Tensor:
    """g - exp(y) sum g along the axis."""
    e, g = step.emit, step.gradient
    total = e.sum(g, [attribute(step.node, "axis", -1)])
    return e("Sub", g, e("Mul", e("Exp", step.output), total))


# BatchNormalization: y = (x - mean) / deviation * scale + shift, a value a channel each


def batch_norm(step: Step) -> gs.Tensor:
    """g scale / deviation."""
    e = step.emit
    return e("Mul", step.gradient, e("Div", _by_channel(step, 1), _batch_deviation(step)))


def batch_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g (x - mean) / deviation."""
    e = step.emit
    normal = e("Div", e("Sub", step.input(), _by_channel(step, 3)), _batch_deviation(step))
    return _over_channels(step, e("Mul", step.gradient, normal))


def batch_norm_shift(step: Step) -> gs.Tensor:
    """The sum of g."""
    return _over_channels(step, step.gradient)


def batch_norm_mean(step: Step) -> gs.Tensor:
    """Minus the sum of g scale / deviation."""
    return step.emit("Neg", _over_channels(step, batch_norm(step)))


def batch_norm_variance(step: Step) -> gs.Tensor:
    """Minus half the sum of g scale (x - mean) / deviation^3."""
    e, deviation = step.emit, _batch_deviation(step)
    centred = e("Sub", step.input(), _by_channel(step, 3))
    slope = e("Div", e("Mul", centred, -0.5), e("Mul", deviation, deviation))
    return _over_channels(step, e("Mul", batch_norm(step), slope))


def _batch_deviation(step: Step) -> gs.Tensor:
    require(not attribute(step.node, "training_mode", 0), "it is in training mode")
    e = step.emit
    return e("Sqrt", e("Add", _by_channel(step, 4), attribute(step.node, "epsilon", 1e-5)))


def _by_channel(step: Step, index: int) -> gs.Tensor:
    """An input of one value a channel, shaped to stand beside x."""
    e = step.emit
    axes = list(range(1, e.rank(step.input()) - 1))
    return e("Unsqueeze", step.input(index), e.ints(axes)) if axes else step.input(index)


def _over_channels(step: Step, tensor: gs.Tensor) -> gs.Tensor:
    """The sum over all axes but the channels'."""
    return step.emit.sum(tensor, [0, *_spatial_axes(step)], keep=False)


def _spatial_axes(step: Step) -> list[int]:
    return list(range(2, step.emit.rank(step.input())))


# InstanceNormalization and LayerNormalization: x is centred and scaled by its own moments over some axes


def instance_norm(step: Step) -> gs.Tensor:
    """The gradient through the moments over space, g scaled by channel."""
    scaled = step.emit("Mul", step.gradient, _by_channel(step, 1))
    return _through_moments(step, scaled, _spatial_axes(step))


def instance_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g times the normalised x."""
    normal, _ = _normalised(step, _spatial_axes(step))
    return _over_channels(step, step.emit("Mul", step.gradient, normal))


def instance_norm_shift(step: Step) -> gs.Tensor:
    """The sum of g."""
    return _over_channels(step, step.gradient)


def layer_norm(step: Step) -> gs.Tensor:
    """The gradient through the moments over the last axes, g times the scale."""
    scaled = step.emit("Mul", step.gradient, step.input(1))
    return _through_moments(step, scaled, _layer_axes(step))


def layer_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g times the normalised x."""
    normal, _ = _normalised(step, _layer_axes(step))
    return step.emit.unbroadcast(step.emit("Mul", step.gradient, normal), step.output, step.asked)


def layer_norm_shift(step: Step) -> gs.Tensor:
    """The sum of g."""
    return step.emit.unbroadcast(step.gradient, step.output, step.asked)


def _layer_axes(step: Step) -> list[int]:
    axis = attribute(step.node, "axis", -1)
    return list(range(axis, 0 if axis < 0 else step.emit.rank(step.input())))


def _normalised(step: Step, axes: Sequence[int]) -> tuple[gs.Tensor, gs.Tensor]:
    """x with mean 0 and variance 1 over `axes`, and the deviation that it was divided by."""
    e, x = step.emit, step.input()
    centred = e("Sub", x, e.mean(x, axes))
    variance = e.mean(e("Mul", centred, centred), axes)
    deviation = e("Sqrt", e("Add", variance, attribute(step.node, "epsilon", 1e-5)))
    return e("Div", centred, deviation), deviation


def _through_moments(step: Step, scaled: gs.Tensor, axes: Sequence[int]) -> gs.Tensor:
    """(s - mean s - n mean(s n)) / deviation, with s the scaled gradient and n the normalised x."""
    e = step.emit
    normal, deviation = _normalised(step, axes)
    along = e("Mul", normal, e.mean(e("Mul", scaled, normal), axes))
    rest = e("Sub", e("Sub", scaled, e.mean(scaled, axes)), along)
    return e("Div", rest, deviation)
