"""How many dimensions a tensor has, as far as a graph tells."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, is_standard

_SAME_SHAPE = {"BatchNormalization", "Dropout", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}


def known_rank(tensor: gs.Tensor) -> int | None:
    """The number of dimensions, where the graph says it or the nodes before leave no choice; else None."""
    if tensor.shape is not None:
        return len(tensor.shape)
    if len(tensor.inputs) != 1 or not is_standard(tensor.inputs[0]):
        return None
    node = tensor.inputs[0]
    if node.op in {"Flatten", "Gemm"}:
        return 2
    if node.op in _SAME_SHAPE:
        return known_rank(node.inputs[0])
    if node.op not in {"Add", "MatMul"} or not is_constant(node.inputs[1]):
        return None
    rank, other = known_rank(node.inputs[0]), len(node.inputs[1].shape)
    # MatMul drops a dimension when an operand is a vector.
    return None if rank is None or (node.op == "MatMul" and min(rank, other) < 2) else max(rank, other)
