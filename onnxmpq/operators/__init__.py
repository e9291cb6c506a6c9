"""The operators whose constant operands are layers, one file each; this is their table."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from onnxmpq.operators.conv import CONV
from onnxmpq.operators.conv_transpose import CONV_TRANSPOSE
from onnxmpq.operators.einsum import EINSUM
from onnxmpq.operators.gemm import GEMM
from onnxmpq.operators.matmul import MATMUL
from onnxmpq.operators.operator import BiasSlot, IntegerKernel, Operator, Shapes
from onnxmpq.passes.matching import is_standard

__all__ = [
    "OPERATORS", "BiasSlot", "IntegerKernel", "Operator", "Shapes", "operator_of", "readers", "weight_place",
    "weight_places",
]  # fmt: skip

OPERATORS: Mapping[str, Operator] = {op.name: op for op in (CONV, CONV_TRANSPOSE, EINSUM, GEMM, MATMUL)}


def operator_of(node: gs.Node) -> Operator | None:
    """What is known of a node's operator; None for one without a weight, and for those of other domains."""
    return OPERATORS.get(node.op) if is_standard(node) else None


def weight_places(node: gs.Node) -> list[int]:
    """The inputs that may be the weight of a layer, the likelier first; none where the operator has no weight."""
    operator = operator_of(node)
    return [] if operator is None else [i for i in operator.weights if i < len(node.inputs)]


def readers(graph: gs.Graph, weight: str) -> list[tuple[gs.Node, int]]:
    """The nodes of the main graph that multiply by a tensor of this name, and the input that each reads it at."""
    return [(n, i) for n in graph.nodes for i in weight_places(n) if n.inputs[i].name == weight]


def weight_place(node: gs.Node) -> int | None:
    """The input that holds the constant which a layer's node multiplies what it is given with, None where none does."""
    constant = [i for i in weight_places(node) if isinstance(node.inputs[i], gs.Constant)]
    return constant[0] if len(constant) == 1 < len(node.inputs) else None
