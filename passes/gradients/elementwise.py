"""Operators that work value by value, but for those whose rule is one line of the table.

x is the input, y the output, g the gradient with respect to y.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import holds_integers, is_constant, read, require

_STEEPEST = float(np.finfo(np.float32).max)


def dropout(step: Step) -> gs.Tensor:
    """g, as in inference."""
    training = step.optional(2)
    require(training is None or not read(training).any(), "it drops values (training_mode)")
    return step.g


def cast(step: Step) -> gs.Tensor:
    """g in the type of x; g itself where x holds codes, which are taken for real numbers."""
    if holds_integers(step.x):
        return step.g
    return step.emit.cast_like(step.g, step.x)


# Arithmetic


def addend(step: Step) -> gs.Tensor:
    """g."""
    return step.to_asked(step.g)


def power_base(step: Step) -> gs.Tensor:
    """g p x^(p - 1), and 0 where p is 0."""
    exponent = _exponent(step)
    less = step("Sub", exponent, 1.0)
    if not is_constant(exponent) or (read(exponent) == 0).any():
        less = step("Where", step("Equal", exponent, 0.0), 1.0, less)  # 0 times infinity is no number
    slope = step("Mul", exponent, step("Pow", step.x, less))
    return step.to_asked(step("Mul", step.g, slope))


def _exponent(step: Step) -> gs.Tensor:
    """The exponent in the type of the base; it may be an integer's."""
    exponent = step.input(1)
    if is_constant(exponent):
        return step.emit.constant(read(exponent).astype(np.dtype(step.g.dtype)))
    return step.emit.cast_like(exponent, step.x)


def power_exponent(step: Step) -> gs.Tensor:
    """g y log x, and 0 where x is 0 or less, as the power then is or has no derivative."""
    positive = step("Greater", step.x, 0.0)
    slope = step("Mul", step.y, step("Log", step("Where", positive, step.x, 1.0)))
    return step.to_asked(step("Mul", step.g, slope))


def extreme(step: Step) -> gs.Tensor:
    """Max and Min: g where the operand is the one chosen, of equal ones the first."""
    chosen = step("Where", step("Equal", step.asked, step.y), step.g, 0.0)
    for earlier in step.node.inputs[: step.index]:
        chosen = step("Where", step("Equal", earlier, step.y), 0.0, chosen)
    return step.to_asked(chosen)


# Activations


def with_slope(step: Step, slope: gs.Tensor | float) -> gs.Tensor:
    """LeakyRelu and PRelu: g where x > 0, else slope g."""
    return step("Where", step("Greater", step.x, 0.0), step.g, step("Mul", step.g, slope))


def relu(step: Step) -> gs.Tensor:
    """g where y > 0.

    In single precision the mask is a HardSigmoid so steep that it is 1 at the smallest normal number: two thirds of
    the time that Greater and Where take on the CPU.
    """
    if step.g.dtype == np.float32:
        return step("Mul", step.g, step("HardSigmoid", step.y, alpha=_STEEPEST, beta=0.0))
    return step("Where", step("Greater", step.y, 0.0), step.g, 0.0)


def clip(step: Step) -> gs.Tensor:
    """g where x is within the bounds."""
    result = step.g
    for index, within in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        bound = step.optional(index)
        if bound is not None:
            result = step("Where", step(within, step.x, bound), result, 0.0)
    return result


def clip_bound(step: Step) -> gs.Tensor:
    """g where x is beyond the bound."""
    beyond = step("Less" if step.index == 1 else "Greater", step.x, step.asked)
    return step.to_asked(step("Where", beyond, step.g, 0.0))


def hard_sigmoid(step: Step) -> gs.Tensor:
    """alpha g where 0 < y < 1."""
    inside = step("And", step("Greater", step.y, 0.0), step("Less", step.y, 1.0))
    return step("Where", inside, step("Mul", step.g, step.attribute("alpha", 0.2)), 0.0)


def hard_swish(step: Step) -> gs.Tensor:
    """y = x clip(x / 6 + 1/2, 0, 1): g (x / 3 + 1/2) where -3 < x < 3, g above, 0 below."""
    gate = step("HardSigmoid", step.x, alpha=1 / 6, beta=0.5)
    inside = step("Less", step("Abs", step.x), 3.0)
    slope = step("Add", gate, step("Where", inside, step("Mul", step.x, 1 / 6), 0.0))
    return step("Mul", step.g, slope)


def elu(step: Step) -> gs.Tensor:
    """g where x > 0, else g (y + alpha)."""
    slope = step("Add", step.y, step.attribute("alpha", 1.0))
    return step("Where", step("Greater", step.x, 0.0), step.g, step("Mul", step.g, slope))


def gelu(step: Step) -> gs.Tensor:
    """y = x Phi(x): g (Phi(x) + x Phi'(x)), Phi the normal distribution or its approximation by tanh."""
    kind = step.attribute("approximate", "none")
    require(kind in {"none", "tanh"}, f"its approximation {kind!r} is not known")
    share, density = _normal(step) if kind == "none" else _normal_by_tanh(step)
    return step("Mul", step.g, step("Add", share, step("Mul", step.x, density)))


def _normal(step: Step) -> tuple[gs.Tensor, gs.Tensor]:
    """Phi(x) = (1 + erf(x / sqrt 2)) / 2, and its derivative."""
    x = step.x
    share = step("Mul", step("Add", step("Erf", step("Mul", x, math.sqrt(0.5))), 1.0), 0.5)
    density = step("Mul", step("Exp", step("Mul", step("Mul", x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return share, density


def _normal_by_tanh(step: Step) -> tuple[gs.Tensor, gs.Tensor]:
    """(1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative (1 - tanh^2 u) u' / 2."""
    x, scale = step.x, math.sqrt(2 / math.pi)
    square = step("Mul", x, x)
    bend = step("Tanh", step("Mul", x, step("Add", step("Mul", square, 0.044715 * scale), scale)))
    rise = step("Add", step("Mul", square, 3 * 0.044715 * scale), scale)
    share = step("Mul", step("Add", bend, 1.0), 0.5)
    return share, step("Mul", step("Mul", step("Sub", 1.0, step("Mul", bend, bend)), rise), 0.5)
