"""Clip what a float MaxPool hands to a QuantizeLinear, so that the pool stays in float.

ONNX Runtime (1.31, QDQPropagation) moves a QuantizeLinear up past a MaxPool. Behind a float kernel the pool then
runs on codes in NCHW, on the CPU provider 15 to 30 times as slow as in float (SqueezeNet 1.1 with a float stem:
3.8 ms for the one pool, where the whole network takes 3). A Clip in between is not moved past, and as the
quantizer saturates where it clips, the runtime drops it afterwards.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, maker, position, read, require, rewrites
from onnxmpq.passes.node_builder import builders


@rewrites(("QuantizeLinear",))
def clip_pools(graph: gs.Graph, node: gs.Node) -> None:
    """MaxPool -> QuantizeLinear becomes MaxPool -> Clip(lowest, highest code's value) -> QuantizeLinear.

    Not where the pool reads a DequantizeLinear: that one is to run on codes. Needs opset 13 and one scale a tensor.
    Preserving: the codes are the same bit for bit.
    """
    pooled = node.inputs[0]
    source = maker(pooled, "MaxPool").inputs[0]
    require(not any(made.op == "DequantizeLinear" for made in source.inputs), "the pool runs on codes")
    require(len(node.inputs) == 3 and all(map(is_constant, node.inputs[1:])), "its scale is not constant")
    scale, zero_point = (read(tensor) for tensor in node.inputs[1:])
    require(scale.ndim == 0 and zero_point.dtype.kind in "iu", "it has several scales, or none of integers")
    codes = np.iinfo(zero_point.dtype)
    names = builders(graph)[0]
    ends = [
        names.constant(stem, np.asarray((end - int(zero_point)) * scale, scale.dtype))
        for stem, end in (("lowest", codes.min), ("highest", codes.max))
    ]
    clipped = gs.Variable(names.name("clipped"), pooled.dtype, pooled.shape)
    place = position(graph.nodes, node)
    graph.nodes.insert(place, gs.Node("Clip", inputs=[pooled, *ends], outputs=[clipped]))
    node.inputs[0] = clipped
