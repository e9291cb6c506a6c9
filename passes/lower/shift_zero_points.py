"""A sum of codes and a constant of whole steps is another zero point: no kernel computes it, and nothing is rounded."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    NoMatch,
    is_constant,
    is_private,
    maker,
    read,
    redirect,
    remove,
    require,
    rewrites,
)
from onnxmpq.passes.node_builder import builders

_WHOLE = 1e-2  # of a step
# What has a scale of its own behind it: others clamp where its first code is, or share it with what they move.
_RESCALING = frozenset(
    {"Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "Mul", "Sigmoid"}
)


@rewrites(("Add",))
def shift_zero_points(graph: gs.Graph, add: gs.Node) -> None:
    """Q(s1, z1) -> DQ -> Add(k s) -> Q(s, z) -> DQ(s, z) becomes Q(s, z + k) -> DQ(s, z), for a whole k.

    Where nothing else reads what is added to, z + k is a code, and neither a clamp nor what moves codes relies on those of
    the first pair. Constants stand behind a pair of their own. Needs one scale a tensor. Preserving: equal but for one rounding less.
    """
    constants = [place for place, tensor in enumerate(add.inputs) if _is_constant(tensor)]
    require(len(constants) == 1, "it adds no constant")
    dequantize, other = (
        maker(add.inputs[place], "DequantizeLinear") for place in (1 - constants[0], constants[0])
    )
    first, last = maker(dequantize.inputs[0], "QuantizeLinear"), _sole_reader(graph, add.outputs[0])
    require(last.op == "QuantizeLinear" and len(last.inputs) == 3, "its sum is not quantized")
    require(
        all(is_private(graph, node.outputs[0]) for node in (first, dequantize)), "others read what it adds to"
    )
    makers = [node.op for node in first.inputs[0].inputs]
    require(
        bool(makers) and _RESCALING.issuperset(makers), "what it adds to relies on the codes of its own pair"
    )
    codes = maker(other.inputs[0], "QuantizeLinear")
    zero_point = _shifted(last, float(read(codes.inputs[0]).item()))
    names = builders(graph)[0]
    first.inputs[1], first.inputs[2] = last.inputs[1], names.constant("zero_point", zero_point)
    redirect(last.outputs[0].outputs, last.outputs[0], first.outputs[0])
    unread = [node for node in (other, codes) if is_private(graph, node.outputs[0])]
    remove(graph, [dequantize, add, last, *(unread if len(unread) == 2 else [])])


def _is_constant(tensor: gs.Tensor) -> bool:
    """True for the dequantized codes of a constant of one value."""
    try:
        source = maker(maker(tensor, "DequantizeLinear").inputs[0], "QuantizeLinear").inputs[0]
    except NoMatch:
        return False
    return is_constant(source) and read(source).size == 1


def _sole_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node:
    require(is_private(graph, tensor), f"{tensor.name} is read by others as well")
    return tensor.outputs[0]


def _shifted(quantize: gs.Node, shift: float) -> np.ndarray:
    """The zero point that adds the shift to what is quantized; NoMatch where none does."""
    scale, zero_point = (read(tensor) for tensor in quantize.inputs[1:])
    require(scale.ndim == 0 and zero_point.dtype.kind in "iu", "it has several scales, or none of integers")
    steps = shift / float(scale)
    code, ends = int(zero_point) + round(steps), np.iinfo(zero_point.dtype)
    require(abs(steps - round(steps)) < _WHOLE, f"{shift:g} is {steps:.2f} steps, not a number of whole ones")
    require(ends.min <= code <= ends.max, f"{code} is no code")
    return np.asarray(code, zero_point.dtype)
