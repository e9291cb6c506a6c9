"""How alike the samples of a batch look to the layers: inner products of centered Gram matrices, as an output."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.node_builder import NodeBuilder, builders

ALIGNMENT = "feature/alignment"

_LOGGER = logging.getLogger(__name__)
_DOUBLE = 11  # TensorProto.DOUBLE


@dataclass(frozen=True, slots=True)
class EmitAlignment:
    """Add `ALIGNMENT`, float64 [tensors, tensors], to the graph outputs.

    Entry (i, j) is <G_i, G_j> with G_i = (F_i - mean F_i) (F_i - mean F_i)^T [N, N], F_i being tensor i flattened
    to [N, D_i] and the mean taken over the batch's N samples: N^2 times the biased HSIC of two linear kernels
    (Gretton et al. 2005). The tensors are float32; nothing is added where the graph lacks one of them.
    Exposing: the other outputs stay bit-equal.
    """

    tensors: tuple[str, ...]

    def __call__(self, graph: gs.Graph) -> bool:
        known = graph.tensors()
        missing = [tensor for tensor in self.tensors if tensor not in known]
        if missing or not self.tensors or ALIGNMENT in {output.name for output in graph.outputs}:
            _LOGGER.debug("no alignment is added; tensors that the graph does not have: %s", missing)
            return False
        _emit(builders(graph)[0], [known[tensor] for tensor in self.tensors])
        graph.toposort()
        return True


def _emit(builder: NodeBuilder, tensors: Sequence[gs.Tensor]) -> None:
    grams = builder.node("Concat", [_gram(builder, t) for t in tensors], "alignment", {"axis": 0})
    turned = builder.node("Transpose", [grams], "alignment", {"perm": [1, 0]})
    output = gs.Variable(ALIGNMENT, np.float64, (len(tensors), len(tensors)))
    builder.into(output, "MatMul", [grams, turned])
    builder.graph.outputs.append(output)


def _gram(builder: NodeBuilder, tensor: gs.Tensor) -> gs.Variable:
    """The centered Gram matrix in one row, float64 [1, N * N]: sums of fourth powers are wide."""
    flat = builder.node("Flatten", [tensor], "alignment", {"axis": 1})
    centered = builder.node("Sub", [flat, _batch_mean(builder, flat)], "alignment")
    turned = builder.node("Transpose", [centered], "alignment", {"perm": [1, 0]})
    gram = builder.node("MatMul", [centered, turned], "alignment")
    wide = builder.node("Cast", [gram], "alignment", {"to": _DOUBLE})
    return builder.node("Flatten", [wide], "alignment", {"axis": 0})


def _batch_mean(builder: NodeBuilder, flat: gs.Variable) -> gs.Variable:
    if builder.graph.opset < 18:
        return builder.node("ReduceMean", [flat], "alignment", {"axes": [0], "keepdims": 1})
    axes = builder.constant("alignment_axes", np.array([0], np.int64))
    return builder.node("ReduceMean", [flat, axes], "alignment", {"keepdims": 1})
