"""The operators of models that are quantized already."""

from __future__ import annotations

import re
from collections import Counter

import onnx_graphsurgeon as gs

from onnxmpq.normalize.discover import is_made_of_constants
from onnxmpq.passes.matching import graphs

OF_WEIGHTS = frozenset({
    "DequantizeLinear", "GatherBlockQuantized", "MatMulBnb4", "MatMulFpQ4", "MatMulNBits", "QMoE",
})  # that read codes of weights and float activations  # fmt: skip
_OF_BOTH = re.compile(
    r"QuantizeLinear|DynamicQuantize\w+|QLinear\w+|QOrdered\w+|QGemm|QAttention|QEmbed\w+|\w+Integer(ToFloat)?"
)


def quantizing_ops(graph: gs.Graph) -> Counter[str]:
    """How many nodes of each operator quantize, or compute with codes: ONNX's (13 and later) and com.microsoft's.

    QuantizeLinear of what constants alone make is none, and of DequantizeLinear only that of such constants counts.
    """
    nodes = (node for part in graphs(graph) for node in part.nodes)
    return Counter(node.op for node in nodes if _quantizes(node))


def _quantizes(node: gs.Node) -> bool:
    if node.op in {"QuantizeLinear", "DequantizeLinear"}:
        source = node.inputs[0]
        is_constant = isinstance(source, gs.Constant) or is_made_of_constants(source)
        return bool(is_constant == (node.op == "DequantizeLinear"))
    return node.op in OF_WEIGHTS or _OF_BOTH.fullmatch(node.op) is not None
