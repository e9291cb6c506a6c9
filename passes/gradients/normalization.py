"""Softmax and the normalizations. x is the input, y the output, g the gradient with respect to y."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import require


def softmax(step: Step) -> gs.Tensor:
    """y (g - sum g y) along the axis."""
    inner = step.emit.sum(step("Mul", step.g, step.y), [step.attribute("axis", -1)])
    return step("Mul", step.y, step("Sub", step.g, inner))


def log_softmax(step: Step) -> gs.Tensor:
    """g - exp(y) sum g along the axis."""
    total = step.emit.sum(step.g, [step.attribute("axis", -1)])
    return step("Sub", step.g, step("Mul", step("Exp", step.y), total))


def channel_shift(step: Step) -> gs.Tensor:
    """What is added to a whole channel: the sum of g by channel."""
    return step.per_channel(step.g)


def _by_channel(step: Step, index: int) -> gs.Tensor:
    """An input of one value a channel, shaped to stand beside x."""
    axes = list(range(1, step.emit.rank(step.x) - 1))
    return step("Unsqueeze", step.input(index), step.emit.ints(axes)) if axes else step.input(index)


# BatchNormalization: y = (x - mean) / deviation * scale + shift, a value a channel each


def batch_norm(step: Step) -> gs.Tensor:
    """g scale / deviation."""
    return step("Mul", step.g, step("Div", _by_channel(step, 1), _batch_deviation(step)))


def batch_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g (x - mean) / deviation."""
    normal = step("Div", step("Sub", step.x, _by_channel(step, 3)), _batch_deviation(step))
    return step.per_channel(step("Mul", step.g, normal))


def batch_norm_mean(step: Step) -> gs.Tensor:
    """Minus the sum of g scale / deviation."""
    return step("Neg", step.per_channel(batch_norm(step)))


def batch_norm_variance(step: Step) -> gs.Tensor:
    """Minus half the sum of g scale (x - mean) / deviation^3."""
    deviation = _batch_deviation(step)
    centred = step("Sub", step.x, _by_channel(step, 3))
    slope = step("Div", step("Mul", centred, -0.5), step("Mul", deviation, deviation))
    return step.per_channel(step("Mul", batch_norm(step), slope))


def _batch_deviation(step: Step) -> gs.Tensor:
    require(not step.attribute("training_mode", 0), "it is in training mode")
    return step("Sqrt", step("Add", _by_channel(step, 4), step.attribute("epsilon", 1e-5)))


# InstanceNormalization and LayerNormalization: x is centred and scaled by its own moments over some axes


def instance_norm(step: Step) -> gs.Tensor:
    """The gradient through the moments over space, g scaled by channel."""
    return _through_moments(step, step("Mul", step.g, _by_channel(step, 1)))


def instance_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g times the normalised x."""
    return step.per_channel(step("Mul", step.g, _normalised(step)[0]))


def layer_norm(step: Step) -> gs.Tensor:
    """The gradient through the moments over the last axes, g times the scale."""
    return _through_moments(step, step("Mul", step.g, step.input(1)))


def layer_norm_scale(step: Step) -> gs.Tensor:
    """The sum of g times the normalised x."""
    return step.to_asked(step("Mul", step.g, _normalised(step)[0]))


def _axes(step: Step) -> list[int]:
    """Those that the moments are taken over."""
    if step.node.op == "InstanceNormalization":
        return list(range(2, step.emit.rank(step.x)))
    axis = step.attribute("axis", -1)
    return list(range(axis, 0 if axis < 0 else step.emit.rank(step.x)))


def _normalised(step: Step) -> tuple[gs.Tensor, gs.Tensor]:
    """x with mean 0 and variance 1, and the deviation that it was divided by."""
    e, axes = step.emit, _axes(step)
    centred = e("Sub", step.x, e.mean(step.x, axes))
    variance = e.mean(e("Mul", centred, centred), axes)
    deviation = e("Sqrt", e("Add", variance, step.attribute("epsilon", 1e-5)))
    return e("Div", centred, deviation), deviation


def _through_moments(step: Step, scaled: gs.Tensor) -> gs.Tensor:
    """(s - mean s - n mean(s n)) / deviation, with s the scaled gradient and n the normalised x."""
    e, axes = step.emit, _axes(step)
    normal, deviation = _normalised(step)
    along = e("Mul", normal, e.mean(e("Mul", scaled, normal), axes))
    rest = e("Sub", e("Sub", scaled, e.mean(scaled, axes)), along)
    return e("Div", rest, deviation)
