"""Matrices that few rows are multiplied with: ONNX Runtime then gains by reading their codes of 4 bits as they are.

It makes MatMulNBits of a DequantizeLinear over INT4, one scale a column, and a MatMul (CPU provider, 1.26 and later): with one
row 1.2 to 2 times as fast as in float, with 64 rows 0.1 to 0.9 times (1.31, AVX2, 384 x 1536).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from onnxmpq.values.arrays import Shape
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS


def few_rows(
    model: onnx.ModelProto, layers: Sequence[Layer], shapes: Mapping[str, Shape], most: int
) -> frozenset[str]:
    """The layers that are matrices on the right of MatMul alone, with `most` rows of one sample at most on their left."""
    free = {la.weight: la for la in layers if la.reason is None and not la.weights_only}
    rows: dict[str, float] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in free:
                rows[name] = max(rows.get(name, 0), _rows(node, place, shapes))
    return frozenset(
        la.name for weight, la in free.items() if _is_matrix(la) and rows.get(weight, math.inf) <= most
    )


def _rows(node: onnx.NodeProto, place: int, shapes: Mapping[str, Shape]) -> float:
    known = shapes.get(node.input[0])
    if node.op_type != "MatMul" or place != 1 or known is None:
        return math.inf
    return math.prod(known[:-1])


def _is_matrix(layer: Layer) -> bool:
    return layer.op == "MatMul" and len(layer.shape) == 2 and layer.float_bits == FLOAT_BITS
