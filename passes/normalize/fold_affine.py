"""Mul, Div, Add and Sub by a constant become part of the layer before them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import per_channel, read, require, rewrites
from onnxmpq.passes.normalize.channel_affine import absorb_and_drop, layer_before, split_operands


@rewrites({"Mul", "Div", "Add", "Sub"})
def fold_affine(graph: gs.Graph, node: gs.Node) -> None:
    """Fold Mul, Div, Add and Sub by a constant into the Conv, ConvTranspose, Gemm or MatMul before them.

    The constant is a scalar or has one value per output channel ([C, 1, 1] or [1, C, 1, 1] behind a 2-d
    Conv, [N] behind a Gemm or MatMul); one that varies along another axis, or may raise the rank, is left.
    Taken where the layer's result goes nowhere else and its weight, where it changes, is a constant that no
    other node reads. A MatMul has no bias: the first Add behind it stays, and takes what follows. Computed
    in float64, stored in the weight's dtype. Preserving: equal but for rounding.
    """
    require(not node.attrs, "it broadcasts as before opset 7")
    operand, constant = split_operands(node)
    layer = layer_before(graph, node.inputs[operand])
    values = per_channel(read(node.inputs[constant]), layer.rank, layer.axis, layer.channels)
    one, zero = np.ones(layer.channels), np.zeros(layer.channels)
    if node.op == "Add":
        scale, shift = one, values
    elif node.op == "Sub":  # y - c or c - y
        scale, shift = (one, -values) if constant == 1 else (-one, values)
    elif node.op == "Mul":
        scale, shift = values, zero
    else:
        require(constant == 1 and bool(values.all()), "it divides by the layer's result, or by zero")
        scale, shift = 1 / values, zero
    absorb_and_drop(graph, layer, scale, shift, node)
