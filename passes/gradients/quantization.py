"""QuantizeLinear and DequantizeLinear as a straight-through estimator with learned step sizes.

Codes are taken for real numbers and rounding for the identity (Bengio et al., arXiv 1308.3432): what is clipped
has no gradient. The chain rule through the pair then gives the scale the gradient of learned step size
quantization (Esser et al., arXiv 1902.08153, equation 3): round(x / s) - x / s inside the range, its end outside.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import NoMatch, require, type_name

_RANGES = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (2, 4, 8, 16)}
_RANGES |= {f"uint{bits}": (0, 2**bits - 1) for bits in (2, 4, 8, 16)}


def quantize_input(step: Step) -> gs.Tensor:
    """g / s where the code is not clipped."""
    return step("Where", _inside(step), step("Div", _gradient(step), _beside(step, 1)), 0.0)


def quantize_scale(step: Step) -> gs.Tensor:
    """The sum of -g x / s^2 where the code is not clipped."""
    slope = step("Neg", step("Div", _steps(step), _beside(step, 1)))
    return _by_scale(step, step("Where", _inside(step), step("Mul", _gradient(step), slope), 0.0))


def dequantize_codes(step: Step) -> gs.Tensor:
    """g s."""
    return step("Mul", step.g, _beside(step, 1))


def dequantize_scale(step: Step) -> gs.Tensor:
    """The sum of g (code - zero point)."""
    codes, zero = step.emit.cast_like(step.x, step.input(1)), _zero_point(step)
    return _by_scale(step, step("Mul", step.g, codes if zero is None else step("Sub", codes, zero)))


def _gradient(step: Step) -> gs.Tensor:
    """g in the type of the scale: whoever reads codes may compute in another."""
    return step.emit.cast_like(step.g, step.input(1))


def _steps(step: Step) -> gs.Tensor:
    """x / s."""
    return step("Div", step.x, _beside(step, 1))


def _inside(step: Step) -> gs.Tensor:
    """Where x / s + zero point lies in the range of the codes."""
    e, zero = step.emit, _zero_point(step)
    code = _steps(step) if zero is None else e("Add", _steps(step), zero)
    low, high = _RANGES[_code_type(step)]
    return e("And", e("GreaterOrEqual", code, float(low)), e("LessOrEqual", code, float(high)))


def _code_type(step: Step) -> str:
    """The type of the codes, by its name."""
    zero = step.optional(2)
    said = step.attribute("output_dtype", 0) or onnx.TensorProto.UINT8
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
    tensor, behind = step.input(index), range(1, _rank(step) - _axis(step)) if _is_per_axis(step) else ()
    return step("Unsqueeze", tensor, step.emit.ints(behind)) if behind else tensor


def _is_per_axis(step: Step) -> bool:
    require(not step.attribute("block_size", 0), "its scales are by block")
    return step.emit.shape(step.input(1)) not in {(), (1,)}


def _rank(step: Step) -> int:
    return step.emit.rank(step.x if step.emit.known(step.x) is not None else step.y)


def _axis(step: Step) -> int:
    """The axis along which scales differ."""
    return step.attribute("axis", 1) % _rank(step)


def _by_scale(step: Step, tensor: gs.Tensor) -> gs.Tensor:
    """The sum over all that one scale stands for."""
    e = step.emit
    kept = [_axis(step)] if _is_per_axis(step) else []
    total = e.sum(tensor, [i for i in range(_rank(step)) if i not in kept], keep=False)
    return e("Reshape", total, e.ints([1])) if e.shape(step.input(1)) == (1,) else total
