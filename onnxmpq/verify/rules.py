"""Does a file keep its target's rules? Read off the written graph, apart from the passes that made it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.values.target import Target
from onnxmpq.verify.readback import STORED_BITS, StoredWeight, read_weights

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # whose output channels are known here
_CLAMPS = frozenset({"Clip", "Relu"})
_BITWISE = frozenset({"BitShift", "BitwiseAnd"})  # TensorRT's parser has no BitShift


def broken_rules(model: onnx.ModelProto, target: Target) -> list[str]:
    """Every rule of the target that the file breaks, as sentences; none where it keeps them all.

    The rules are those of `Target`'s fields: opset, tensor types, plain weights, symmetric weights with one scale
    a channel of the layer's output, activations of one scale and the right type and zero point, pairs that are
    whole, codes that integer kernels sum exactly, and of a target that takes no floats beside integer weights, none.
    """
    graph = _Graph(model)
    faults = [*_file_faults(graph, target), *_pair_faults(graph, target)]
    for name, stored in read_weights(model).items():
        found = (*_weight_faults(graph, target, name, stored), *_reading_faults(graph, target, name))
        faults += [f"weight {name!r} {fault}" for fault in found]
    return faults


class _Graph:
    """Look-ups into the main graph of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = opset_version(model)
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def values(self, node: NodeProto, index: int) -> NDArray[Any] | None:
        """The constant at an input; None where there is none or it is computed."""
        tensor = self.constants.get(node.input[index]) if len(node.input) > index else None
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_weight(self, node: NodeProto) -> bool:
        """True for a DequantizeLinear of something else than a QuantizeLinear's result."""
        maker = self.producers.get(node.input[0])
        return node.op_type == "DequantizeLinear" and (maker is None or maker.op_type != "QuantizeLinear")


def _file_faults(graph: _Graph, target: Target) -> Iterator[str]:
    lowest, highest = target.opsets
    if graph.opset > highest:
        yield f"opset {graph.opset} is above {highest}"
    if graph.opset < lowest:
        yield f"opset {graph.opset} is below {lowest}"
    for name, tensor in graph.constants.items():
        if STORED_BITS.get(tensor.data_type, 8) not in target.weights.tensor_bits:
            yield f"tensor {name!r} is {TensorProto.DataType.Name(tensor.data_type)}"
    if target.weights.folds:
        return
    for node in graph.nodes:
        if node.op_type in _BITWISE or any(_is_packed(graph, name) for name in node.input[:1]):
            yield f"node {node.op_type} -> {node.output[0]!r} unpacks weights"
        elif graph.is_weight(node) and node.input[0] not in graph.constants:
            yield f"the codes of {node.output[0]!r} are computed"
        elif graph.is_weight(node) and node.input[1] not in graph.constants:
            yield f"the scales of {node.output[0]!r} are computed"


def _is_packed(graph: _Graph, name: str) -> bool:
    """True for an integer constant that something else than a DequantizeLinear reads as its data."""
    tensor = graph.constants.get(name)
    readers = {node.op_type for node in graph.readers.get(name, ()) if node.input[0] == name}
    return tensor is not None and tensor.data_type in STORED_BITS and bool(readers - {"DequantizeLinear"})


def _pair_faults(graph: _Graph, target: Target) -> Iterator[str]:
    """QuantizeLinear, each with the DequantizeLinear nodes that read it."""
    wanted = [str(target.activations.codes(bits).dtype) for bits in target.activations.bits]
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero_point = graph.values(node, 1), graph.values(node, 2)
        what = f"the activation {node.input[0]!r}"
        if scale is None or zero_point is None:
            yield f"{what} has a scale or zero point that is no constant"
            continue
        if scale.size != 1 or zero_point.size != 1:
            yield f"{what} has {scale.size} scales, wanted one for the tensor"
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{what} has the scale {scale}"
        if str(zero_point.dtype) not in wanted:
            yield f"{what} is {zero_point.dtype}, wanted {' or '.join(wanted)}"
        if target.activations.signed and zero_point.any():
            yield f"{what} has the zero point {zero_point}, wanted 0"
        for reader in graph.readers.get(node.output[0], ()):
            same = list(reader.input[1:3]) == list(node.input[1:3])
            if (
                reader.op_type == "DequantizeLinear"
                and not same
                and not _is_computed(graph, node, reader, target)
            ):
                yield f"{what} is dequantized by another scale or zero point"


def _is_computed(graph: _Graph, quantize: NodeProto, dequantize: NodeProto, target: Target) -> bool:
    """True where ONNX Runtime's pair computes, its two halves being of other parameters: a sum, or a product.

    Zero points apart add a multiple of the scale. Scales apart multiply a sum with a constant that saturates at zero: so
    a HardSigmoid is computed in integers.
    """
    zero_point = graph.values(quantize, 2)
    if not target.is_onnxruntime or zero_point is None:
        return False
    if dequantize.input[1] == quantize.input[1]:
        return True
    maker = graph.producers.get(quantize.input[0])
    makers = [graph.producers.get(name) for name in maker.input] if maker is not None else []
    shifts = [node for node in makers if node is not None and graph.is_weight(node)]
    saturates = dequantize.input[2] == quantize.input[2] and int(zero_point) == np.iinfo(zero_point.dtype).min
    return maker is not None and maker.op_type == "Add" and len(shifts) == 1 and saturates


def _weight_faults(graph: _Graph, target: Target, name: str, stored: StoredWeight) -> Iterator[str]:
    maker = graph.producers[name]
    while (
        maker.op_type in ("Cast", "Reshape") and maker.input[0] in graph.producers
    ):  # half precision, stacked axes
        maker = graph.producers[maker.input[0]]
    if not target.weights.folds and maker.op_type != "DequantizeLinear":
        yield f"is made by {maker.op_type}, wanted DequantizeLinear"
    if not np.isfinite(stored.scale).all() or not stored.scale.all():
        yield "has scales that are zero or no numbers"
    if not target.weights.negative_scales and (stored.scale < 0).any():
        yield "has scales below zero"
    for layer in graph.readers.get(name, ()):
        axis = channel_axis(layer, name, stored.codes.ndim)
        if layer.op_type in _LAYERS and axis is not None and axis != stored.axis:
            yield f"has scales along axis {stored.axis}, wanted {axis}, that of the output channels"
    if maker.op_type == "DequantizeLinear" and _is_integer(graph, name):  # Cast and Mul stay in float
        low, high = -(1 << (target.weights.code_bits - 1)), (1 << (target.weights.code_bits - 1)) - 1
        if stored.codes.min(initial=0) < low or stored.codes.max(initial=0) > high:
            yield f"has codes beyond {low} to {high} beside quantized activations"
        source = graph.constants.get(maker.input[0])
        if source is not None and STORED_BITS[source.data_type] not in target.weights.direct_bits:
            yield f"is read as {TensorProto.DataType.Name(source.data_type)} beside quantized activations"


def _is_integer(graph: _Graph, weight: str) -> bool:
    """True where a layer reads the weight beside a dequantized activation."""
    others = [name for node in graph.readers.get(weight, ()) for name in node.input[:2] if name != weight]
    makers = [graph.producers[name] for name in others if name in graph.producers]
    return any(node.op_type == "DequantizeLinear" and not graph.is_weight(node) for node in makers)


def _reading_faults(graph: _Graph, target: Target, name: str) -> Iterator[str]:
    """What else a consumer may ask for that does not fuse on its own terms."""
    maker = graph.producers[name]
    if target.weights.zero_points and maker.op_type == "DequantizeLinear" and graph.values(maker, 2) is None:
        yield "has no zero points"
    if not target.weights.beside_floats and not _is_integer(graph, name):
        yield "is read beside activations in float"
    if target.activations.placement == "whole" and not _gives_codes(graph, name):
        yield "goes into a layer whose result is not quantized"


def _gives_codes(graph: _Graph, weight: str) -> bool:
    """True where what integer layers make of the weight is quantized, behind their bias and clamps."""
    if not _is_integer(graph, weight):
        return True
    waiting = list(graph.readers.get(weight, ()))
    while waiting:
        behind = graph.readers.get(waiting.pop().output[0], [])
        taken = [node for node in behind if _is_taken_in(graph, node)]
        if len(taken) + sum(node.op_type == "QuantizeLinear" for node in behind) != max(1, len(behind)):
            return False
        waiting += taken
    return True


def _is_taken_in(graph: _Graph, node: NodeProto) -> bool:
    adds = node.op_type == "Add" and any(name in graph.constants for name in node.input)
    return adds or node.op_type in _CLAMPS


def channel_axis(layer: NodeProto, weight: str, rank: int) -> int | None:
    """The axis of output channels; None where the weight is the left operand of a product."""
    attributes = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1
    if layer.input[0] == weight:
        return None
    return 0 if layer.op_type == "Gemm" and attributes.get("transB", 0) else rank - 1
