"""What a model file holds: the layers that could be quantized, or the plan inside a compiled file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.normalize.discover import discover, layer_names
from onnxmpq.normalize.other_weights import other_weights
from onnxmpq.normalize.prepare import LOWEST_OPSET, normalise, raise_graph
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.onnx_io.short_names import shorten_long_names
from onnxmpq.operators import is_product, part_name, weight_places
from onnxmpq.operators.gather import GATHER
from onnxmpq.passes.matching import optional_input, type_name
from onnxmpq.runtime.requirements import described
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import HALF_BITS
from onnxmpq.values.other_weight import OtherWeight
from onnxmpq.values.report import Requirements
from onnxmpq.verify.readback import StoredWeight, read_halves, read_weights


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """A layer as the file stores it; `reason` says why it cannot be quantized (None: it can, or is)."""

    name: str
    op: str
    shape: tuple[int, ...]
    weight_bits: int
    activation_bits: int | None
    stored_bytes: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """One model: its opset, real bytes (external data included) and layers in execution order."""

    path: str
    opset: int
    producer: str
    file_bytes: int
    is_compiled: bool
    layers: tuple[InspectedLayer, ...]
    requirements: Requirements | None = None  # what the file itself says
    others: tuple[
        OtherWeight, ...
    ] = ()  # constants of floats that no layer holds, of those that are not small


def inspect_model(path: str | os.PathLike[str]) -> Inspection:
    """Read a file and list its layers. Raises MissingFileError or ModelError."""
    model = load_model(Path(path), Runtime().accepts)
    stored, needed = read_weights(model), described(model)
    is_compiled = bool(stored) or needed is not None
    layers = _stored_layers(model, stored) if is_compiled else _float_layers(model)
    return Inspection(
        str(path),
        opset_version(model),
        model.producer_name,
        model.ByteSize(),
        is_compiled,
        tuple(layers),
        needed,
        _others(model),
    )


def _float_layers(model: onnx.ModelProto) -> list[InspectedLayer]:
    return [_float_layer(layer) for layer in discover(_normalised(model), {})]


def _normalised(model: onnx.ModelProto) -> gs.Graph:
    graph = import_graph(model)
    raise_graph(graph, LOWEST_OPSET)
    normalise(graph, integer=False)
    clean = export_model(graph, model)
    return import_graph(clean) if shorten_long_names(clean) else graph


def _others(model: onnx.ModelProto) -> tuple[OtherWeight, ...]:
    """Of a compiled file, too: its layers' weights are no floats, or are theirs."""
    graph = _normalised(model)
    return other_weights(export_model(graph, model), {layer.weight for layer in discover(graph, {})})


def _float_layer(layer: Layer) -> InspectedLayer:
    size = layer.params * layer.float_bits // 8
    return InspectedLayer(layer.name, layer.op, layer.shape, layer.float_bits, None, size, layer.reason)


def _stored_layers(model: onnx.ModelProto, stored: dict[str, StoredWeight]) -> list[InspectedLayer]:
    """Layers of a compiled file: the stored codes, and what was left in single or half precision."""
    graph, halves = import_graph(model), read_halves(model)
    left = {layer.weight: layer for layer in discover(graph, {})}
    found: dict[str, InspectedLayer] = {}
    for node, name, _ in layer_names(graph, stored):
        for place in weight_places(node) or GATHER.weights:
            weight, layer = node.inputs[place].name, name + part_name(node, place)
            if weight in found:
                continue
            if weight in stored:
                held, acts = stored[weight], _activation_bits(node)
                size = held.stored_bytes + held.scale_bytes
                found[weight] = InspectedLayer(layer, node.op, held.codes.shape, held.bits, acts, size)
            elif weight in halves:
                half = halves[weight]
                found[weight] = InspectedLayer(layer, node.op, half.shape, HALF_BITS, None, half.nbytes)
            elif weight in left and left[weight].params:
                found[weight] = _float_layer(left[weight])
    return list(found.values())


def _activation_bits(node: gs.Node) -> int | None:
    """The width of the dequantized codes that the layer reads besides its weight's, None where it reads float."""
    if not is_product(node.op):
        return None
    makers = [
        maker for tensor in node.inputs[:2] for maker in tensor.inputs if maker.op == "DequantizeLinear"
    ]
    computed = [m for m in makers if not isinstance(m.inputs[0], gs.Constant) and m.inputs[0].inputs]
    if not computed or len(makers) != 2:
        return None
    codes = optional_input(computed[0], 2) or computed[0].inputs[0]  # a zero point has their type
    bits = re.search(r"\d+", type_name(codes) or "uint8")
    return None if bits is None else int(bits[0])
