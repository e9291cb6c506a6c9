"""HardSigmoid between codes as a sum that saturates: ONNX Runtime has an integer Add, but no integer HardSigmoid."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, is_private, maker, position, read, require, rewrites
from onnxmpq.passes.node_builder import builders


@rewrites(("QuantizeLinear",))
def saturate_hard_sigmoid(graph: gs.Graph, quantize: gs.Node) -> None:
    """DQ -> HardSigmoid(alpha, beta) -> Q(scale) becomes DQ -> Add(beta / alpha) -> Q(scale / alpha), the codes being the same.

    HardSigmoid-1 is max(0, min(1, alpha x + beta)) with, here, a positive alpha and a beta that is not 0. Codes whose
    lowest stands for 0, and whose highest for no more than 1, clamp by themselves. ONNX Runtime (1.31) makes a
    QLinearAdd of it, and the QuantizeLinear takes the factor at no cost. Needs one scale a tensor. Preserving: equal
    but for the rounding of sums to codes.
    """
    node = maker(quantize.inputs[0], "HardSigmoid")
    maker(node.inputs[0], "DequantizeLinear")
    require(is_private(graph, node.outputs[0]), f"{node.outputs[0].name} is read by others as well")
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    require(alpha > 0 and beta != 0, "it falls, or is 0 at 0")
    require(len(quantize.inputs) == 3, "it has no zero point")
    scale, zero_point = (read(tensor) for tensor in quantize.inputs[1:])
    require(_clamps(scale, zero_point), "its codes reach beyond 0 and 1")
    names = builders(graph)[0]
    one = np.ones((), zero_point.dtype)
    codes, zero = (
        names.constant(f"shift_{stem}", one * value)
        for stem, value in (("codes", beta > 0), ("zero", beta < 0))
    )
    size = names.constant("shift_scale", np.asarray(abs(beta) / alpha, scale.dtype))
    shift = gs.Variable(names.name("shift"), scale.dtype, ())
    dequantize = gs.Node("DequantizeLinear", inputs=[codes, size, zero], outputs=[shift])
    graph.nodes.insert(position(graph.nodes, node), dequantize)
    node.op, node.attrs = "Add", {}
    node.inputs.append(shift)
    quantize.inputs[1] = names.constant("scale", np.asarray(scale / alpha, scale.dtype))


def _clamps(scale: np.ndarray, zero_point: np.ndarray) -> bool:
    """True for codes of a scale from 0 up, to 1 at most (but for the rounding of a scale)."""
    if scale.ndim or zero_point.dtype.kind not in "iu":
        return False
    ends = np.iinfo(zero_point.dtype)
    return int(zero_point) == ends.min and float(scale) * (ends.max - ends.min) <= 1 + 1e-6
