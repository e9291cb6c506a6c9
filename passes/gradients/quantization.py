"""QuantizeLinear and DequantizeLinear as a straight-through estimator with learned step sizes.

Codes are taken for real numbers and rounding for the identity (Bengio et al., arXiv 1308.3432): what is clipped
has no gradient. The chain rule through the pair then gives the scale the gradient of learned step size
quantization (Esser et al., arXiv 1902.08153, equation 3): round(x / s) - x / s inside the range, its end outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import NoMatch, attribute, require, type_name

_RANGES = {
    "int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255),
    "int16": (-32768, 32767), "uint16": (0, 65535),
}  # fmt: skip


def quantize_input(step: Step) -> gs.Tensor:
    """g / s where the code is not clipped."""
    e = step.emit
    return e("Where", _inside(step), e("Div", _gradient(step), _beside(step, 1)), 0.0)


def quantize_scale(step: Step) -> gs.Tensor:
    """The sum of -g x / s^2 where the code is not clipped."""
    e = step.emit
    slope = e("Neg", e("Div", _steps(step), _beside(step, 1)))
    return _by_scale(step, e("Where", _inside(step), e("Mul", _gradient(step), slope), 0.0))


def dequantize_codes(step: Step) -> gs.Tensor:
    """g s."""
    return step.emit("Mul", step.gradient, _beside(step, 1))


def dequantize_scale(step: Step) -> gs.Tensor:
    """The sum of g (code - zero point)."""
    e = step.emit
    codes = e.cast_like(step.input(), step.input(1))
    zero = _zero_point(step)
    return _by_scale(step, e("Mul", step.gradient, codes if zero is None else e("Sub", codes, zero)))


def _gradient(step: Step) -> gs.Tensor:
    """g in the type of the scale: whoever reads codes may compute in another."""
    return step.emit.cast_like(step.gradient, step.input(1))


def _steps(step: Step) -> gs.Tensor:
    """x / s."""
    return step.emit("Div", step.input(), _beside(step, 1))


def _inside(step: Step) -> gs.Tensor:
    """Where x / s + zero point lies in the range of the codes."""
    e, zero = step.emit, _zero_point(step)
    code = _steps(step) if zero is None else e("Add", _steps(step), zero)
    low, high = _RANGES[_code_type(step)]
    return e("And", e("GreaterOrEqual", code, float(low)), e("LessOrEqual", code, float(high)))


def _code_type(step: Step) -> str:
    """The type of the codes, by its name."""
    zero = step.optional(2)
    said = attribute(step.node, "output_dtype", 0) or onnx.TensorProto.UINT8
    name = onnx.TensorProto.DataType.Name(said).lower() if zero is None else type_name(zero)
    if name is None:
        raise NoMatch(f"the type of its zero point {zero.name!r} is not known")  # type: ignore[union-attr]
    require(name in _RANGES, f"its codes are {name}; wanted integers")
    return str(name)


def _zero_point(step: Step) -> gs.Tensor | None:
    """The zero point as a float beside x, None where it is left out."""
    return None if step.optional(2) is None else step.emit.cast_like(_beside(step, 2), step.input(1))


def _beside(step: Step, index: int) -> gs.Tensor:
    """The scale or the zero point, shaped to stand beside x."""
    e, tensor = step.emit, step.input(index)
    behind = _behind(step)
    return e("Unsqueeze", tensor, e.ints(behind)) if behind else tensor


def _behind(step: Step) -> Sequence[int]:
    """The axes that a vector of scales lacks behind its own; none where it is one value."""
    e = step.emit
    if not _is_per_axis(step):
        return []
    rank = e.rank(step.input() if e.known(step.input()) is not None else step.output)
    axis = attribute(step.node, "axis", 1) % rank
    return list(range(1, rank - axis))


def _is_per_axis(step: Step) -> bool:
    require(not attribute(step.node, "block_size", 0), "its scales are by block")
    return step.emit.shape(step.input(1)) not in {(), (1,)}


def _by_scale(step: Step, tensor: gs.Tensor) -> gs.Tensor:
    """The sum over all that one scale stands for."""
    e = step.emit
    x = step.input() if e.known(step.input()) is not None else step.output
    rank = e.rank(x)
    if _is_per_axis(step):
        axis = attribute(step.node, "axis", 1) % rank
        return e.sum(tensor, [i for i in range(rank) if i != axis], keep=False)
    total = e.sum(tensor, list(range(rank)), keep=False)
    return e("Reshape", total, e.ints([1])) if e.shape(step.input(1)) == (1,) else total
