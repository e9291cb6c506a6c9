"""Channels whose weights vanish beside their bias lose them: an integer bias would overflow there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import is_constant, optional_input, read, require, rewrite_each
from onnxmpq.values.activation_range import ActivationRange

# Weight scales are at least a fifth of the channel's largest weight over 127, so biases stay below 5/8 of INT32.
_LARGEST_BIAS = 2.0**28


@dataclass(frozen=True, slots=True)
class ZeroDeadChannels:
    """Zero the weights of an output channel, of a layer with an integer kernel, that its INT32 bias could not stand beside.

    Integer kernels count the bias in units of (input scale x weight scale), `ranges` giving the former by
    tensor. Where a channel's weights are tiny, as in channels that training has switched off, so is the unit:
    the bias overflows, and the channel gives nonsense instead of a constant. Such weights move their channel by
    far less than a quantum of the bias; with zeros in their place the unit is free. Beside codes of other widths than
    8 bits the same channels count as switched off: Qualcomm's HTP has INT32 biases beside 16-bit codes. Only weights that one node
    reads are changed. Lowering.
    """

    ranges: Mapping[str, ActivationRange]

    def __call__(self, graph: gs.Graph) -> bool:
        integer = [op.name for op in OPERATORS.values() if op.integer is not None and op.bias is not None]
        return rewrite_each(graph, integer, self._zero)

    def _zero(self, _graph: gs.Graph, node: gs.Node) -> None:
        source, weight, bias = node.inputs[0], node.inputs[1], optional_input(node, 2)
        require(source.name in self.ranges, f"{source.name} is not quantized")
        require(is_constant(weight) and is_constant(bias), "its weight or bias is not constant")
        require(len(weight.outputs) == 1, f"{weight.name} is read {len(weight.outputs)} times")
        axis = OPERATORS[node.op].layout(node, 1).axis
        values = read(weight)
        require(tuple(read(bias).shape) == (values.shape[axis],), "its bias is not one value a channel")
        found = self.ranges[source.name]
        dead = _dead(np.moveaxis(values, axis, 0), read(bias), found.scale * 2.0 ** (found.codes.bits - 8))
        require(bool(dead.any()), "all its channels are alive")
        zeroed = np.moveaxis(values.copy(), axis, 0)
        zeroed[dead] = 0
        node.inputs[1] = gs.Constant(weight.name, np.ascontiguousarray(np.moveaxis(zeroed, 0, axis)))


def _dead(weight: NDArray[Any], bias: NDArray[Any], input_scale: float) -> NDArray[np.bool_]:
    """The channels [n] of a weight [n, ...] that are not zero already, and too small for their bias."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float64)
    least = np.abs(bias).astype(np.float64) / (_LARGEST_BIAS * input_scale)
    return np.asarray((largest > 0) & (largest / 127 < least))
