"""Why a compiled model lost its function: by its weights or by its activations, and by which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.data import Dataset
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.score import compare
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.option import QUANTIZED_BITS
from onnxmpq.values.plan import Plan
from onnxmpq.verify.lost import lost_outputs

_SAMPLES = 64
_NAMED = 3


@dataclass(frozen=True)
class Looked:
    """What a file is compared with, on what."""

    reference: Session
    data: Dataset
    metric: Metric
    batch_size: int


def cause_of_loss(
    written: onnx.ModelProto, plan: Plan, costs: Sensitivity, runtime: Runtime, looked: Looked
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
    return (
        f"its activations did it, most of all {', '.join(worst)}: with activations in float the same weights keep the "
        "function. Type --activations fp32, or keep the layers there in float, such as --keep 'NAME=8/fp32'"
    )


def _by_weights(plan: Plan, costs: Sensitivity) -> str:
    alone = costs.costs if isinstance(costs, CostTable) else {}
    quantized = {name: o for name, o in plan.options.items() if o.weight_bits in QUANTIZED_BITS}
    if not quantized:
        return "no layer is quantized, so neither weights nor activations did it: check the data"
    by_loss = sorted(quantized, key=lambda n: -alone.get(n, {}).get(quantized[n], 0.0))[:_NAMED]
    named = ", ".join(f"{name} ({quantized[name].weight_bits} bits)" for name in by_loss)
    found = f"its weights did it, most of all those of {named}. "
    if all(option.weight_bits == max(QUANTIZED_BITS) for option in quantized.values()):
        return found + f"All have {max(QUANTIZED_BITS)} bits: keep these in float, --keep '{by_loss[0]}=fp16'"
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
) -> list[str]:
    """The tensors that their own quantization leaves with the least SQNR in their median channel."""
    made = {name: node for node in model.graph.node for name in node.output}
    read = {name: made[node.input[0]].input[0] for name, node in pairs.items()}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {o.name for o in exposed.graph.output}
    wanted = [name for name in dict.fromkeys([*read, *read.values()]) if name not in known]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name in made)
    values = {**feeds, **runtime.session(exposed).run(feeds)}
    noise = {
        before: _median_sqnr(values[before], values[after])
        for after, before in read.items()
        if before in values and values[before].dtype.kind == "f"
    }
    worst = sorted(noise, key=lambda name: noise[name])[:_NAMED]
    return [f"{name} ({noise[name]:.0f} dB)" for name in worst]


def _median_sqnr(before: Array, after: Array) -> float:
    """dB, about the mean of each channel that varies."""
    if before.ndim < 2 or before.shape != after.shape:
        return math.inf
    axis = 1 if before.ndim == 4 else before.ndim - 1
    others = tuple(a for a in range(before.ndim) if a != axis)
    signal = before.astype(np.float64).var(axis=others)
    noise = np.square(after.astype(np.float64) - before).mean(axis=others)
    alive = signal > signal.max(initial=0.0) * np.finfo(np.float32).eps ** 2
    if not alive.any():
        return math.inf
    tiny = np.finfo(np.float64).tiny
    return float(np.median(10 * np.log10(signal[alive] / np.maximum(noise[alive], tiny))))
