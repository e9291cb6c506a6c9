"""The layer whose weights scale a classifier's logits."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxmpq.model.subgraph import names_read
from onnxmpq.spec import Layer

# What gives c f(x) for c x, c > 0, and what makes probabilities of logits.
_CARRIES = frozenset(
    {
        "AveragePool", "Cast", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu",
        "LogSoftmax", "MaxPool", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Softmax", "Squeeze", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip


def logit_layer(model: onnx.ModelProto, output: str, layers: Sequence[Layer]) -> Layer | None:
    """The layer of one node whose weight and bias times a factor make the logits behind `output` as many times as large.

    None where there is none: something else is added on the way, or others read what the layer gives.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    by_weight = {layer.weight: layer for layer in layers if layer.reason is None}
    biases = {layer.bias: layer for layer in by_weight.values() if layer.bias is not None}
    added: str | None = None
    name = output
    while name in made:
        node = made[name]
        readers = [n for n in model.graph.node if name in names_read(n)]
        if len(readers) > 1 or (readers and name in outputs):
            return None
        layer = next((by_weight[n] for n in node.input if n in by_weight), None)
        if layer is not None:
            bias = node.input[2] if len(node.input) > 2 else ""
            whole = {bias, added or ""} <= {"", layer.bias or ""} and len(layer.nodes) == 1
            return layer if whole else None
        if node.op_type == "Add" and added is None and any(n in biases for n in node.input):
            added = next(n for n in node.input if n in biases)
            name = next((n for n in node.input if n != added), "")
        elif node.op_type in _CARRIES:
            name = node.input[0]
        else:
            return None
    return None
