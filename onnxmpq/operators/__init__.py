"""The operators whose constant operands are layers, one file each; this is their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from onnxmpq.operators.add import ADD
from onnxmpq.operators.conv import CONV
from onnxmpq.operators.conv_transpose import CONV_TRANSPOSE
from onnxmpq.operators.einsum import EINSUM
from onnxmpq.operators.gather import GATHER
from onnxmpq.operators.gemm import GEMM
from onnxmpq.operators.matmul import MATMUL
from onnxmpq.operators.operator import BiasSlot, IntegerKernel, Operator, Shapes
from onnxmpq.operators.recurrent import GRU, LSTM, RNN
from onnxmpq.passes.matching import is_standard

__all__ = [
    "OPERATORS", "BiasSlot", "IntegerKernel", "Operator", "Shapes", "WeightUse", "deciding", "held_places",
    "is_computing", "is_product", "operator_of", "part_name", "readers", "uses_of",
    "way_of", "weight_places",
]  # fmt: skip

OPERATORS: Mapping[str, Operator] = {
    op.name: op for op in (ADD, CONV, CONV_TRANSPOSE, EINSUM, GATHER, GEMM, GRU, LSTM, MATMUL, RNN)
}
WeightUse = tuple[gs.Node, int]  # a node, and the input that it reads a weight at


def operator_of(node: gs.Node) -> Operator | None:
    """What is known of a node's operator; None for one without a weight, and for those of other domains."""
    return OPERATORS.get(node.op) if is_standard(node) else None


def is_product(op: str) -> bool:
    """True for an operator whose output values are sums of products of its weight with data."""
    return op in OPERATORS and OPERATORS[op].use == "product"


def is_computing(op: str) -> bool:
    """True for an operator that computes with its weight, and does not just pass its values on."""
    return op in OPERATORS and OPERATORS[op].use in ("product", "recurrence")


def weight_places(node: gs.Node) -> list[int]:
    """The inputs that may be the weight of a layer, the likelier first; none where the operator has no weight."""
    operator = operator_of(node)
    if operator is None:
        return []
    return [i for i in operator.weights if i < len(node.inputs) and operator.takes(node.inputs[i])]


def held_places(node: gs.Node) -> list[int]:
    """The inputs that hold the constants of a node's layers: one, or none where both operands are data or constants.

    An operator with `parts` may hold several. What is looked up or added is a weight only where something is computed
    with the result: a detector's anchors go to its outputs as they are, and are coordinates.
    """
    operator, constant = operator_of(node), _constant_places(node)
    if constant and not is_computing(node.op) and not _is_computed_with(node):
        return []
    is_one = len(constant) == 1 < len(node.inputs)
    return constant if is_one or (operator is not None and operator.parts) else []


def _constant_places(node: gs.Node) -> list[int]:
    return [i for i in weight_places(node) if isinstance(node.inputs[i], gs.Constant)]


def _is_computed_with(node: gs.Node) -> bool:
    """True where the result of a node reaches an operator that computes with a weight, or a product of two results."""
    seen, waiting = {id(node)}, [node]
    while waiting:
        behind = [reader for tensor in waiting.pop().outputs for reader in tensor.outputs]
        if any(is_computing(reader.op) for reader in behind):
            return True
        fresh = {id(reader): reader for reader in behind if id(reader) not in seen}
        seen |= fresh.keys()
        waiting += fresh.values()
    return False


def part_name(node: gs.Node, place: int) -> str:
    """What the layer of the weight at an input is called behind its node's name: nothing, or `.W` of an LSTM."""
    operator = operator_of(node)
    parts = operator.parts if operator is not None else ()
    return f".{parts[OPERATORS[node.op].weights.index(place)]}" if parts else ""


def readers(graph: gs.Graph, weight: str) -> list[WeightUse]:
    """The nodes of the main graph that have a tensor of this name as a weight, and the input that each reads it at."""
    return [(n, i) for n in graph.nodes for i in weight_places(n) if n.inputs[i].name == weight]


def uses_of(weight: gs.Tensor) -> list[WeightUse]:
    """The nodes that hold a tensor as a weight, and the input that each reads it at."""
    nodes = {id(node): node for node in weight.outputs}.values()
    return [(node, place) for node in nodes for place in held_places(node) if node.inputs[place] is weight]


def way_of(use: WeightUse) -> tuple[int, int]:
    """How a use reads its weight: along which axis lie the output channels, and in how many groups."""
    node, place = use
    layout = OPERATORS[node.op].layout(node, place)
    return layout.axis, layout.group


def deciding(uses: Sequence[WeightUse]) -> list[WeightUse]:
    """Of all uses of one weight those that its layout and its kernels follow from.

    Those that compute with it; what only passes its values on takes them as they come.
    """
    return [use for use in uses if is_computing(use[0].op)] or list(uses[:1])
