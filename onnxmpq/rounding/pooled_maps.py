"""Which layers read the mean over a map, as a classifier behind a global pool does."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx

from onnxmpq.onnx_io.subgraph import names_read

_SAME_VALUES = {
    "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
}  # fmt: skip


def pooled_maps(model: onnx.ModelProto, weights: Iterable[str]) -> dict[str, str]:
    """For each weight of one layer that reads what a GlobalAveragePool gives: the name of what is pooled."""
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    found = {}
    for weight in weights:
        readers = [node for node in nodes if weight in names_read(node)]
        pool = _pool(makers, readers[0].input[0]) if len(readers) == 1 else None
        if pool is not None:
            found[weight] = pool.input[0]
    return found


def _pool(makers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The pool whose values a tensor has, in whatever shape."""
    node = makers.get(name)
    while node is not None and _is(node, _SAME_VALUES):
        node = makers.get(node.input[0])
    return node if node is not None and _is(node, {"GlobalAveragePool"}) else None


def _is(node: onnx.NodeProto, ops: Collection[str]) -> bool:
    return node.op_type in ops and not node.domain
