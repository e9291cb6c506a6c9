"""What a layer makes of inputs that are all the same: by how much a constant at its input moves its output."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators import operator_of
from onnxmpq.passes.matching import NoMatch, attribute, is_float_constant, read, require
from onnxmpq.values.arrays import Doubles


def response_to_ones(layer: gs.Node) -> Doubles:
    """The output of a Conv or Gemm for ones at its input, without bias and padding: float64 [channels].

    NoMatch for other operators, for a weight that is no constant of floats, and for a Gemm with factors.
    """
    operator = operator_of(layer)
    if operator is None or layer.op not in {"Conv", "Gemm"}:
        raise NoMatch(f"{layer.op} reads it")
    weight = layer.inputs[1]
    require(is_float_constant(weight), f"{weight.name} is no constant of floats")
    require(attribute(layer, "alpha", 1.0) == 1 and attribute(layer, "beta", 1.0) == 1, "it has factors")
    axis = operator.layout(layer, 1).axis
    rows: Doubles = np.moveaxis(read(weight).astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    sums: Doubles = rows.sum(axis=1)
    return sums
