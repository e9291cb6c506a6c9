"""Operators that work value by value, and the arithmetic of two operands, which may broadcast.

x is the input, y the output, g the gradient with respect to y.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import attribute, holds_integers, is_constant, read, require

_STEEPEST = float(np.finfo(np.float32).max)


def pass_on(step: Step) -> gs.Tensor:
    """Identity, and Round straight through: g."""
    return step.gradient


def dropout(step: Step) -> gs.Tensor:
    """g, as in inference."""
    training = step.optional(2)
    require(training is None or not read(training).any(), "it drops values (training_mode)")
    return step.gradient


def cast(step: Step) -> gs.Tensor:
    """g in the type of x; g itself where x holds codes, which are taken for real numbers."""
    if holds_integers(step.input()):
        return step.gradient
    return step.emit.cast_like(step.gradient, step.input())


# Arithmetic


def add(step: Step) -> gs.Tensor:
    """Add, Sum, and Sub's left operand: g."""
    return step.emit.unbroadcast(step.gradient, step.output, step.asked)


def subtrahend(step: Step) -> gs.Tensor:
    """-g."""
    return step.emit.unbroadcast(step.emit("Neg", step.gradient), step.output, step.asked)


def mul(step: Step) -> gs.Tensor:
    """g times the other operand."""
    product = step.emit("Mul", step.gradient, step.input(1 - step.index))
    return step.emit.unbroadcast(product, step.output, step.asked)


def numerator(step: Step) -> gs.Tensor:
    """g / b of a / b."""
    quotient = step.emit("Div", step.gradient, step.input(1))
    return step.emit.unbroadcast(quotient, step.output, step.asked)


def denominator(step: Step) -> gs.Tensor:
    """-g y / b of y = a / b."""
    e = step.emit
    slope = e("Neg", e("Div", step.output, step.input(1)))
    return e.unbroadcast(e("Mul", step.gradient, slope), step.output, step.asked)


def power_base(step: Step) -> gs.Tensor:
    """g p x^(p - 1), and 0 where p is 0."""
    e, exponent = step.emit, _exponent(step)
    less = e("Sub", exponent, 1.0)
    if not is_constant(exponent) or (read(exponent) == 0).any():
        less = e("Where", e("Equal", exponent, 0.0), 1.0, less)  # 0 times infinity is no number
    slope = e("Mul", exponent, e("Pow", step.input(), less))
    return e.unbroadcast(e("Mul", step.gradient, slope), step.output, step.asked)


def _exponent(step: Step) -> gs.Tensor:
    """The exponent in the type of the base; it may be an integer's."""
    exponent = step.input(1)
    if is_constant(exponent):
        return step.emit.constant(read(exponent).astype(np.dtype(step.gradient.dtype)))
    return step.emit.cast_like(exponent, step.input())


def power_exponent(step: Step) -> gs.Tensor:
    """g y log x, and 0 where x is 0 or less, as the power then is or has no derivative."""
    e, base = step.emit, step.input()
    positive = e("Greater", base, 0.0)
    slope = e("Mul", step.output, e("Log", e("Where", positive, base, 1.0)))
    return e.unbroadcast(e("Mul", step.gradient, slope), step.output, step.asked)


def where(step: Step) -> gs.Tensor:
    """g where the operand was chosen, 0 elsewhere."""
    e, g = step.emit, step.gradient
    chosen = e("Where", step.input(), g, 0.0) if step.index == 1 else e("Where", step.input(), 0.0, g)
    return e.unbroadcast(chosen, step.output, step.asked)


def extreme(step: Step) -> gs.Tensor:
    """Max and Min: g where the operand is the one chosen, of equal ones the first."""
    e = step.emit
    chosen = e("Where", e("Equal", step.asked, step.output), step.gradient, 0.0)
    for earlier in step.node.inputs[: step.index]:
        chosen = e("Where", e("Equal", earlier, step.output), 0.0, chosen)
    return e.unbroadcast(chosen, step.output, step.asked)


# Functions of one value


def neg(step: Step) -> gs.Tensor:
    """-g."""
    return step.emit("Neg", step.gradient)


def absolute(step: Step) -> gs.Tensor:
    """g sign(x)."""
    return step.emit("Mul", step.gradient, step.emit("Sign", step.input()))


def reciprocal(step: Step) -> gs.Tensor:
    """-g y^2."""
    e = step.emit
    return e("Neg", e("Mul", step.gradient, e("Mul", step.output, step.output)))


def sqrt(step: Step) -> gs.Tensor:
    """g / 2y."""
    return step.emit("Div", step.emit("Mul", step.gradient, 0.5), step.output)


def exp(step: Step) -> gs.Tensor:
    """g y."""
    return step.emit("Mul", step.gradient, step.output)


def log(step: Step) -> gs.Tensor:
    """g / x."""
    return step.emit("Div", step.gradient, step.input())


def erf(step: Step) -> gs.Tensor:
    """g 2 / sqrt(pi) exp(-x^2)."""
    e, x = step.emit, step.input()
    slope = e("Mul", e("Exp", e("Neg", e("Mul", x, x))), 2 / math.sqrt(math.pi))
    return e("Mul", step.gradient, slope)


# Activations


def relu(step: Step) -> gs.Tensor:
    """g where y > 0.

    In single precision the mask is a HardSigmoid so steep that it is 1 at the smallest normal number: two thirds of
    the time that Greater and Where take on the CPU.
    """
    e = step.emit
    if step.gradient.dtype == np.float32:
        return e("Mul", step.gradient, e("HardSigmoid", step.output, alpha=_STEEPEST, beta=0.0))
    return e("Where", e("Greater", step.output, 0.0), step.gradient, 0.0)


def leaky_relu(step: Step) -> gs.Tensor:
    """g where x > 0, else alpha g."""
    e, g = step.emit, step.gradient
    return e("Where", e("Greater", step.input(), 0.0), g, e("Mul", g, attribute(step.node, "alpha", 0.01)))


def prelu(step: Step) -> gs.Tensor:
    """g where x > 0, else slope g."""
    e, g = step.emit, step.gradient
    return e("Where", e("Greater", step.input(), 0.0), g, e("Mul", g, step.input(1)))


def prelu_slope(step: Step) -> gs.Tensor:
    """g x where x < 0."""
    e, x = step.emit, step.input()
    product = e("Mul", step.gradient, e("Min", x, 0.0))
    return e.unbroadcast(product, step.output, step.asked)


def clip(step: Step) -> gs.Tensor:
    """g where x is within the bounds."""
    e, x, result = step.emit, step.input(), step.gradient
    for index, within in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        bound = step.optional(index)
        if bound is not None:
            result = e("Where", e(within, x, bound), result, 0.0)
    return result


def clip_bound(step: Step) -> gs.Tensor:
    """g where x is beyond the bound."""
    e = step.emit
    beyond = e("Less" if step.index == 1 else "Greater", step.input(), step.asked)
    return e.unbroadcast(e("Where", beyond, step.gradient, 0.0), step.output, step.asked)


def sigmoid(step: Step) -> gs.Tensor:
    """g y (1 - y)."""
    e, y = step.emit, step.output
    return e("Mul", step.gradient, e("Mul", y, e("Sub", 1.0, y)))


def tanh(step: Step) -> gs.Tensor:
    """g (1 - y^2)."""
    e, y = step.emit, step.output
    return e("Mul", step.gradient, e("Sub", 1.0, e("Mul", y, y)))


def hard_sigmoid(step: Step) -> gs.Tensor:
    """alpha g where 0 < y < 1."""
    e, y = step.emit, step.output
    inside = e("And", e("Greater", y, 0.0), e("Less", y, 1.0))
    return e("Where", inside, e("Mul", step.gradient, attribute(step.node, "alpha", 0.2)), 0.0)


def hard_swish(step: Step) -> gs.Tensor:
    """y = x clip(x / 6 + 1/2, 0, 1): g (x / 3 + 1/2) where -3 < x < 3, g above, 0 below."""
    e, x = step.emit, step.input()
    gate = e("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = e("Less", e("Abs", x), 3.0)
    slope = e("Add", gate, e("Where", inside, e("Mul", x, 1 / 6), 0.0))
    return e("Mul", step.gradient, slope)


def elu(step: Step) -> gs.Tensor:
    """g where x > 0, else g (y + alpha)."""
    e, g = step.emit, step.gradient
    slope = e("Add", step.output, attribute(step.node, "alpha", 1.0))
    return e("Where", e("Greater", step.input(), 0.0), g, e("Mul", g, slope))


def softplus(step: Step) -> gs.Tensor:
    """g sigmoid(x)."""
    return step.emit("Mul", step.gradient, step.emit("Sigmoid", step.input()))


def gelu(step: Step) -> gs.Tensor:
    """y = x Phi(x): g (Phi(x) + x Phi'(x)), Phi the normal distribution or its approximation by tanh."""
    kind = attribute(step.node, "approximate", "none")
    require(kind in {"none", "tanh"}, f"its approximation {kind!r} is not known")
    e, x = step.emit, step.input()
    share, density = _normal(step) if kind == "none" else _normal_by_tanh(step)
    return e("Mul", step.gradient, e("Add", share, e("Mul", x, density)))


def _normal(step: Step) -> tuple[gs.Tensor, gs.Tensor]:
    """Phi(x) = (1 + erf(x / sqrt 2)) / 2, and its derivative."""
    e, x = step.emit, step.input()
    share = e("Mul", e("Add", e("Erf", e("Mul", x, math.sqrt(0.5))), 1.0), 0.5)
    density = e("Mul", e("Exp", e("Mul", e("Mul", x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return share, density


def _normal_by_tanh(step: Step) -> tuple[gs.Tensor, gs.Tensor]:
    """(1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative (1 - tanh^2 u) u' / 2."""
    e, x, scale = step.emit, step.input(), math.sqrt(2 / math.pi)
    square = e("Mul", x, x)
    bend = e("Tanh", e("Mul", x, e("Add", e("Mul", square, 0.044715 * scale), scale)))
    rise = e("Add", e("Mul", square, 3 * 0.044715 * scale), scale)
    share = e("Mul", e("Add", bend, 1.0), 0.5)
    return share, e("Mul", e("Mul", e("Sub", 1.0, e("Mul", bend, bend)), rise), 0.5)
