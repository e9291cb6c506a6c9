"""A gate's HardSigmoid becomes part of the layer before it, but for a clamp, which kernels take in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, require, rewrites
from onnxmpq.passes.node_builder import builders
from onnxmpq.passes.normalize.channel_affine import absorb, layer_before


@rewrites({"HardSigmoid"})
def clamp_hard_sigmoid(graph: gs.Graph, node: gs.Node) -> None:
    """HardSigmoid(W x + b; alpha, beta) becomes Clip(alpha W x + (alpha b + beta), 0, 1) where a Mul reads it.

    So the gates of squeeze-and-excitation: an integer kernel saturates where the Clip does, at no cost. HardSigmoid-1
    is max(0, min(1, alpha x + beta)), 0.2 and 0.5 by default. What is no gate stays: it may be an output whose
    kind is told by its operator. Preserving: equal but for rounding.
    """
    require(any(reader.op == "Mul" for reader in node.outputs[0].outputs), "it is no gate: no Mul reads it")
    layer = layer_before(graph, node.inputs[0])
    dtype = layer.weight.dtype
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    absorb(graph, layer, np.full(layer.channels, alpha), np.full(layer.channels, beta))
    names = builders(graph)[0]
    node.op, node.attrs = "Clip", {}
    node.inputs.extend(
        names.constant(stem, np.asarray(end, dtype)) for stem, end in (("low", 0), ("high", 1))
    )
