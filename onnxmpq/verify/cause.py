"""Why a compiled model lost its function: by its weights or by its activations, and by which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.context.prepared import Prepared
from onnxmpq.data import Dataset
from onnxmpq.metrics.decibels import median_of_channels
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.score import compare
from onnxmpq.normalize.discover import readers_of
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.subgraph import exposing
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.option import QUANTIZED_BITS
from onnxmpq.values.plan import Plan
from onnxmpq.verify.lost import lost_outputs

_SAMPLES = 64
_NAMED = 3
_WIDEST = 7  # bits of the codes of integer layers, where every CPU is to add them up exactly
_NOISY = 15.0  # dB: a tensor that has more is no cause


@dataclass(frozen=True)
class Looked:
    """What a file is compared with, on what."""

    reference: Session
    data: Dataset
    metric: Metric
    batch_size: int


def cause_of_loss(
    written: onnx.ModelProto,
    prepared: Prepared,
    plan: Plan,
    costs: Sensitivity,
    runtime: Runtime,
    looked: Looked,
) -> str:
    """One sentence of the cause and one of the remedy, from one more run: of the file with activations in float."""
    pairs = activation_pairs(written)
    if not pairs:
        return _by_weights(plan, costs)
    session = runtime.session(without_pairs(written, pairs))
    data = looked.data.some(_SAMPLES, 0)
    _, after = compare(looked.reference, session, data, looked.metric, looked.batch_size)
    if lost_outputs(after, real=not looked.data.synthetic):
        return _by_weights(plan, costs)
    worst = noisiest(written, pairs, runtime, next(iter(data.batches(looked.batch_size))).feeds)
    found = "its activations did it: with activations in float the same weights keep the function. "
    if not worst:
        return found + "Type --activations fp32"
    named = ", ".join(f"{name} ({db:.0f} dB)" for name, db in worst.items())
    read = readers_of(import_graph(prepared.model), prepared.layers, [next(iter(worst))])
    layer = next((layer.name for layer in prepared.layers if layer.name in read), None)
    keep = f", or keep the layers there in float, such as --keep '{layer}=8/fp32'" if layer else ""
    return f"{found}The noisiest are {named}. Type --activations fp32{keep}"


def _by_weights(plan: Plan, costs: Sensitivity) -> str:
    alone = costs.costs if isinstance(costs, CostTable) else {}
    quantized = {name: o for name, o in plan.options.items() if o.weight_bits in QUANTIZED_BITS}
    if not quantized:
        return "no layer is quantized, so neither weights nor activations did it: check the data"
    by_loss = sorted(quantized, key=lambda n: -alone.get(n, {}).get(quantized[n], 0.0))[:_NAMED]
    named = ", ".join(f"{name} ({quantized[name].weight_bits} bits)" for name in by_loss)
    found = f"its weights did it, most of all those of {named}. "
    if all(option.weight_bits >= _WIDEST for option in quantized.values()):
        return found + f"They have all the bits there are: keep these in float, --keep '{by_loss[0]}=fp16'"
    return found + f"Ask for more bits (a larger --budget), or keep these wide, --keep '{by_loss[0]}=8'"


def activation_pairs(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The DequantizeLinear nodes of activations, by the tensor that is quantized."""
    constants = {i.name for i in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        source = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear" and source.input[0] not in constants:
            found[node.output[0]] = node
    return found


def without_pairs(model: onnx.ModelProto, pairs: dict[str, onnx.NodeProto]) -> onnx.ModelProto:
    """The same model whose activations stay in float."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    made = {name: node for node in bare.graph.node for name in node.output}
    for node in bare.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = _before(name, pairs, made)
    outputs = {o.name for o in bare.graph.output}
    for name in outputs & set(pairs):  # an output that is dequantized itself
        made[name].CopyFrom(onnx.helper.make_node("Identity", [_before(name, pairs, made)], [name]))
    return bare


def _before(tensor: str, pairs: dict[str, onnx.NodeProto], made: dict[str, onnx.NodeProto]) -> str:
    while tensor in pairs:
        tensor = made[made[tensor].input[0]].input[0]
    return tensor


def noisiest(
    model: onnx.ModelProto, pairs: dict[str, onnx.NodeProto], runtime: Runtime, feeds: dict[str, Array]
) -> dict[str, float]:
    """The tensors that their own quantization leaves with the least SQNR in their median channel, in dB, by name.

    A tensor that a node makes goes by the name of its dequantized value, which is the original's.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    read = {name: made[node.input[0]].input[0] for name, node in pairs.items()}
    exposed = exposing(model, [*read, *read.values()])
    values = {**feeds, **runtime.session(exposed).run(feeds)}
    noise = {
        after if before in made else before: _median_sqnr(values[before], values[after])
        for after, before in read.items()
        if before in values and values[before].dtype.kind == "f"
    }
    worst = sorted((name for name in noise if noise[name] < _NOISY), key=lambda name: noise[name])
    return {name: noise[name] for name in worst[:_NAMED]}


def _median_sqnr(before: Array, after: Array) -> float:
    """dB, about the mean of each channel that varies."""
    if before.ndim < 2 or before.shape != after.shape:
        return math.inf
    axis = 1 if before.ndim == 4 else before.ndim - 1
    others = tuple(a for a in range(before.ndim) if a != axis)
    signal = before.astype(np.float64).var(axis=others)
    noise = np.square(after.astype(np.float64) - before).mean(axis=others)
    return median_of_channels(signal, noise)
