"""How alike the samples of a batch look to the layers: inner products of centered Gram matrices, as an output."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.node_builder import builders

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
        emit = Emitter(builders(graph)[0])
        grams = emit("Concat", *(_gram(emit, known[tensor]) for tensor in self.tensors), axis=0)
        output = gs.Variable(ALIGNMENT, np.float64, (len(self.tensors), len(self.tensors)))
        emit.builder.into(output, "MatMul", [grams, emit("Transpose", grams, perm=[1, 0])])
        graph.outputs.append(output)
        graph.toposort()
        return True


def _gram(e: Emitter, tensor: gs.Tensor) -> gs.Variable:
    """The centered Gram matrix in one row, float64 [1, N * N]: sums of fourth powers are wide."""
    flat = e("Flatten", tensor, axis=1)
    centered = e("Sub", flat, e.mean(flat, [0]))
    gram = e("MatMul", centered, e("Transpose", centered, perm=[1, 0]))
    return e("Flatten", e("Cast", gram, to=_DOUBLE), axis=0)
