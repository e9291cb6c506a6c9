"""What matrix products share: rows of features before them, rows of results behind them."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Shapes
from onnxmpq.operators.windows import as_float, reshaped
from onnxmpq.passes.emitter import Emitter

ON_THE_LEFT = "weights on the left or in a stack"  # of matrices


def rows_of(e: Emitter, tensor: gs.Tensor, features: int) -> gs.Variable:
    """[1, features, rows] of a tensor [..., features]."""
    return e("Transpose", reshaped(e, as_float(e, tensor), 1, -1, features), perm=[0, 2, 1])


def product_macs(node: gs.Node, place: int, shapes: Shapes, axis: int) -> int:
    """Those of a product by a matrix with its output channels along an axis, by a stack of such, or by a vector."""
    shape, weight = shapes.get(node.outputs[0].name), node.inputs[place]
    if shape is None:
        return 0
    columns = int(weight.shape[axis]) if len(weight.shape) > 1 else 1
    stacked = math.prod(weight.shape[:-2])
    return int(math.prod(weight.shape) * math.prod(shape) // max(columns * stacked, 1))
