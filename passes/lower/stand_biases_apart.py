"""Biases of integer matrix products stay sums of their own: ONNX Runtime would make a float Gemm of the two."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, known_rank, maker, own_name, read, require, rewrites


@rewrites(("Add",))
def stand_biases_apart(graph: gs.Graph, add: gs.Node) -> None:
    """MatMul(x, W) + b gets its b as [1, ..., N] where x is dequantized and the product has more than two dimensions.

    ONNX Runtime (MatMulAddFusion, 1.31) makes Reshape, Gemm and Reshape of a product of known sizes and a vector, and
    for a float bias has no integer Gemm that gives float: the layer took 2 to 7 times as long as in fp32. With a bias of more
    dimensions it is MatMulIntegerToFloat, a third of fp32's time. Preserving: the results are bit-equal.
    """
    constants = [place for place, tensor in enumerate(add.inputs) if is_constant(tensor)]
    require(len(add.inputs) == 2 and len(constants) == 1, "it adds no constant")
    place = constants[0]
    product, bias = add.inputs[1 - place], add.inputs[place]
    maker(maker(product, "MatMul").inputs[0], "DequantizeLinear")
    rank = known_rank(product) or 0
    require(rank > 2, f"{product.name} is not known to have more than two dimensions")
    values = read(bias)
    require(values.ndim == 1, f"{bias.name} is no vector")
    add.inputs[place] = gs.Constant(own_name(graph, bias), values.reshape((1,) * (rank - 1) + values.shape))
