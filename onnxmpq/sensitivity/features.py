"""Which tensor is a layer's feature: its output behind what normalises, activates or joins it.

The papers tap a network "after BatchNorm and ReLU" and at block outputs. In a graph that is: from the layer's
output on, for as long as one node alone reads the tensor and that node works element by element; what a layer's output is
gated by (x * Sigmoid(x)) counts as one node with the product.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxmpq.errors import OptionError
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.layer import Layer

_FOLLOWED = frozenset({
    "Add", "BatchNormalization", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mul",
    "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Tanh",
})  # fmt: skip


def layer_features(probe: Probe, method: str) -> dict[str, str]:
    """Layer name -> tensor, in the order of the tensors, for the layers that have a choice; several may share one tensor.

    Layers in control-flow bodies, and those whose feature is no float tensor [N, channels, ...], have none.
    Raises OptionError where no layer has one.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in probe.model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    layers = probe.chosen
    found = {la.name: _feature(la, readers) for la in layers if readers.get(la.weight)}
    made = {name: i for i, node in enumerate(probe.model.graph.node) for name in node.output}
    ordered = sorted(found.items(), key=lambda pair: made[pair[1]])
    found = {name: tensor for name, tensor in ordered if _has_channels(tensor, probe)}
    if not found:
        raise OptionError(
            f"method {method} compares the layers' features, and no layer of this model has one"
        )
    return found


def _feature(layer: Layer, readers: Mapping[str, list[onnx.NodeProto]]) -> str:
    tensor: str = readers[layer.weight][-1].output[0]
    while (behind := _behind(tensor, readers)) is not None:
        tensor = behind.output[0]
    return tensor


def _behind(tensor: str, readers: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """The one node element by element that reads the tensor, or the product with its own gate (SiLU, as exported)."""
    found = readers.get(tensor, [])
    if any(node.op_type not in _FOLLOWED for node in found):
        return None
    if len(found) == 2:
        gate, product = sorted(found, key=lambda node: node.op_type == "Mul")
        is_gated = product.op_type == "Mul" and set(product.input) == {tensor, gate.output[0]}
        return product if is_gated and len(readers.get(gate.output[0], [])) == 1 else None
    return found[0] if len(found) == 1 else None


def _has_channels(tensor: str, probe: Probe) -> bool:
    traced = probe.traced.get(tensor)
    return traced is not None and traced.elem_type == onnx.TensorProto.FLOAT and len(traced.shape) >= 2
