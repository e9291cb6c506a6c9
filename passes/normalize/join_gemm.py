"""A matrix product and a vector added to it are one Gemm, whose bias takes up what rounding does to its mean."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    absorb_into,
    known_rank,
    per_channel,
    read,
    require,
    rewrites,
    unique_name,
)
from onnxmpq.passes.normalize.channel_affine import layer_before, split_operands


@rewrites(("Add",))
def join_gemm(graph: gs.Graph, add: gs.Node) -> None:
    """Replace MatMul(x, W) + b by Gemm(x, W, b), as TensorFlow's dense layers come.

    Where x is known to have two dimensions, W is a constant with two, b one with a value for each column or one for
    all, and the product goes nowhere else. Preserving: equal but for the order of the sums.
    """
    require(not add.attrs, "it broadcasts as before opset 7")
    product, bias = split_operands(add)
    layer = layer_before(graph, add.inputs[product])
    node = layer.tail
    require(node.op == "MatMul", f"{add.inputs[product].name} is made by {node.op}, wanted a MatMul alone")
    sizes = known_rank(node.inputs[0]), len(layer.weight.shape)
    require(sizes == (2, 2), f"its operands have {sizes} dimensions, wanted two each")
    values = per_channel(read(add.inputs[bias]), 2, 1, layer.channels).astype(layer.weight.dtype)
    node.op = "Gemm"
    node.inputs.append(gs.Constant(unique_name(graph, f"{layer.weight.name}_bias"), values))
    absorb_into(graph, node, add)
