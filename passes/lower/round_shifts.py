"""Scalars that are added become whole steps of what they are added to; biases behind take up the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators.response import response_to_ones
from onnxmpq.passes.matching import (
    is_constant,
    is_private,
    own_name,
    read,
    require,
    rewrite_each,
    scalar_operand,
)
from onnxmpq.values.activation_range import ActivationRange

_WHOLE = 1e-3  # of a step


@dataclass(frozen=True, slots=True)
class RoundShifts:
    """Add(x, b) -> layers becomes Add(x, k s), s being the step of the sum's codes by `ranges` and k whole.

    Then the sum moves a zero point, and is neither computed nor rounded (`shift_zero_points`). The layers' biases,
    vectors of their own, take what the rest makes of their weights; where a Conv pads, at its borders, it is off by what half a
    step makes, as rounding is. Where other nodes read the sum it stays. Lowering.
    """

    ranges: Mapping[str, ActivationRange]

    def __call__(self, graph: gs.Graph) -> bool:
        return rewrite_each(graph, ("Add",), self._round)

    def _round(self, graph: gs.Graph, node: gs.Node) -> None:
        place, shift = scalar_operand(node)
        total = node.outputs[0]
        require(total.name in self.ranges, f"{total.name} is not quantized")
        step = self.ranges[total.name].scale
        whole = np.float32(round(shift / step) * step)
        require(abs(shift - float(whole)) > _WHOLE * step, "it is a number of whole steps")
        require(all(total is not output for output in graph.outputs), f"{total.name} is a graph output")
        moved = [_moved_bias(graph, layer, total, shift - float(whole)) for layer in total.outputs]
        for layer, bias in zip(total.outputs, moved, strict=True):
            layer.inputs[2] = bias
        constant = node.inputs[place]
        node.inputs[place] = gs.Constant(
            own_name(graph, constant), np.full(constant.shape, whole, constant.dtype)
        )


def _moved_bias(graph: gs.Graph, layer: gs.Node, data: gs.Tensor, shift: float) -> gs.Constant:
    """The bias of a layer whose data are less by `shift`."""
    response = response_to_ones(layer)
    require(layer.inputs[0] is data and len(layer.inputs) == 3, "it is no layer's data, or that has no bias")
    bias = layer.inputs[2]
    require(is_constant(bias) and is_private(graph, bias), f"{bias.name} is no constant of its own")
    values = read(bias)
    require(values.shape == response.shape, f"{bias.name} is no vector")
    return gs.Constant(bias.name, (values + shift * response).astype(values.dtype))
