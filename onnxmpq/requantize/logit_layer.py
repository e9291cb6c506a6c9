"""The layer whose weights scale a classifier's logits."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxmpq.onnx_io.subgraph import names_read
from onnxmpq.operators import OPERATORS
from onnxmpq.values.layer import Layer

_RECASTS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_NORMALISES = frozenset({"LogSoftmax", "Softmax"})  # before them there are logits
# These give c f(x) for c x, c > 0.
_CARRIES = _RECASTS | {
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "ReduceMean", "ReduceSum", "Relu",
}  # fmt: skip


def logit_layer(model: onnx.ModelProto, output: str, layers: Sequence[Layer]) -> Layer | None:
    """The layer whose weight and bias times a factor make the logits behind `output` as many times as large.

    None where there is none: something else is done on the way, or others read its result or its constants.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    passed = _CARRIES | _NORMALISES
    name = output
    while name in made:
        node, readers = made[name], [n for n in model.graph.node if name in names_read(n)]
        if len(readers) > 1 or (readers and name in outputs):
            return None
        if node.op_type in OPERATORS:
            return _sole(model, node, layers)
        if node.op_type not in passed:
            return None
        if node.op_type not in _RECASTS:  # a Softmax stands last, and once
            passed = _CARRIES
        name = node.input[0]
    return None


def _sole(model: onnx.ModelProto, node: onnx.NodeProto, layers: Sequence[Layer]) -> Layer | None:
    """The layer of that node alone."""
    layer = next((la for la in layers if la.reason is None and la.weight in node.input), None)
    if layer is None or sum(layer.weight in names_read(n) for n in model.graph.node) != 1:
        return None
    bias = node.input[2] if len(node.input) > 2 else ""
    return layer if bias in {"", layer.bias} else None
