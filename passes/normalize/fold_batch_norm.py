"""BatchNormalization becomes part of the layer before it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, per_channel, read, require, rewrites, unique_name
from onnxmpq.passes.normalize.channel_affine import LinearLayer, absorb, absorb_and_drop, layer_before
from onnxmpq.values.arrays import Doubles

_EPSILON = 1e-5  # BatchNormalization's default


@rewrites({"BatchNormalization"})
def fold_batch_norm(graph: gs.Graph, norm: gs.Node) -> None:
    """Fold BatchNormalization at inference into the Conv, ConvTranspose, Gemm or MatMul before it.

        W' = W * gamma / sqrt(var + eps),    b' = (b - mean) * gamma / sqrt(var + eps) + beta

    (BatchNormalization-15; Jacob et al. 2018, section 3.2). Computed in float64, stored in the weight's
    dtype. Taken where the layer's result goes nowhere else, its weight is a constant that no other node
    reads, and all four statistics are constants. Behind a MatMul only where its result has two dimensions
    for sure; without a bias to hold the shift an Add stays. Preserving: equal but for rounding.
    """
    require(attribute(norm, "training_mode", 0) == 0, "it is in training mode")
    require(all(out.is_empty() for out in norm.outputs[1:]), "its running statistics are outputs")
    layer = layer_before(graph, norm.inputs[0])
    require(layer.axis == 1, f"the result of {layer.node.op} is not known to have its channels on axis 1")
    scale, shift = _scale_and_shift(norm, layer.channels)
    if layer.bias_input is None:
        _fold_into_matmul(graph, layer, scale, shift, norm)
    else:
        absorb_and_drop(graph, layer, scale, shift, norm)


def _scale_and_shift(norm: gs.Node, channels: int) -> tuple[Doubles, Doubles]:
    gamma, beta, mean, variance = (per_channel(read(t), 1, 0, channels) for t in norm.inputs[1:5])
    spread = variance + attribute(norm, "epsilon", _EPSILON)
    require(bool((spread > 0).all()), "a variance plus epsilon is not positive")
    scale = gamma / np.sqrt(spread)
    return scale, beta - mean * scale


def _fold_into_matmul(
    graph: gs.Graph, layer: LinearLayer, scale: Doubles, shift: Doubles, norm: gs.Node
) -> None:
    """The scale goes into the weight; the normalisation turns into the Add of the shift."""
    stored = shift.astype(layer.weight.dtype)
    require(bool(np.isfinite(stored).all()), f"the shift would overflow {layer.weight.dtype}")
    absorb(graph, layer, scale, np.zeros_like(shift))
    bias = gs.Constant(unique_name(graph, f"{layer.weight.name}_bias"), stored)
    norm.op, norm.attrs = "Add", {}
    norm.inputs, norm.outputs = [norm.inputs[0], bias], norm.outputs[:1]
