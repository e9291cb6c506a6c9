"""What operators share: the maps before and behind convolutions, the rows of matrix products, and their MACs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Shapes
from onnxmpq.passes.emitter import Emitter

FLOAT = 1  # TensorProto.FLOAT
TO_THE_END = int(np.iinfo(np.int64).max)


def as_float(e: Emitter, tensor: gs.Tensor) -> gs.Tensor:
    """The tensor in single precision: sums of half-precision squares overflow."""
    return tensor if tensor.dtype == np.float32 else e("Cast", tensor, to=FLOAT)


def channels_first(e: Emitter, tensor: gs.Tensor, rank: int) -> gs.Variable:
    """[channels, N, *positions] of a map [N, channels, *positions]: turned once, before taps multiply its size."""
    return e("Transpose", tensor, perm=[1, 0, *range(2, 2 + rank)])


def every(e: Emitter, tensor: gs.Tensor, step: int, rank: int) -> gs.Tensor:
    """Every `step`-th position, in each direction, of a map [channels, N, *positions]."""
    return strided(e, tensor, [0] * rank, [1] * rank, [step] * rank, [1] * rank)


def strided(
    e: Emitter,
    tensor: gs.Tensor,
    index: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> gs.Tensor:
    """What a window sees at the tap `index`, all positions: a strided slice that ends where the last window does."""
    if all(k == 1 for k in kernel) and all(s == 1 for s in strides):
        return tensor
    starts = [i * d for i, d in zip(index, dilations, strict=True)]
    behind = [(k - 1) * d - s for k, d, s in zip(kernel, dilations, starts, strict=True)]
    ends = [-b if b else TO_THE_END for b in behind]
    return e("Slice", tensor, *map(e.ints, (starts, ends, range(2, 2 + len(kernel)), strides)))


def reshaped(e: Emitter, tensor: gs.Tensor, *shape: int) -> gs.Variable:
    """The tensor in another shape."""
    return e("Reshape", tensor, e.ints(shape))


def rows_of(e: Emitter, tensor: gs.Tensor, features: int) -> gs.Variable:
    """[1, features, rows] of a tensor [..., features]."""
    return e("Transpose", reshaped(e, as_float(e, tensor), 1, -1, features), perm=[0, 2, 1])


def map_macs(tensor: gs.Tensor, weight: gs.Tensor, shapes: Shapes) -> int:
    """Those of a weight that is applied at every position of a map."""
    shape = shapes.get(tensor.name)
    return 0 if shape is None else int(math.prod(weight.shape) * shape[0] * math.prod(shape[2:]))


def product_macs(node: gs.Node, place: int, shapes: Shapes, axis: int) -> int:
    """Those of a product by a matrix with its output channels along an axis, by a stack of such, or by a vector."""
    shape, weight = shapes.get(node.outputs[0].name), node.inputs[place]
    if shape is None:
        return 0
    columns = int(weight.shape[axis]) if len(weight.shape) > 1 else 1
    stacked = math.prod(weight.shape[:-2])
    return int(math.prod(weight.shape) * math.prod(shape) // max(columns * stacked, 1))
