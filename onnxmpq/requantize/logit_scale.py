"""logit scale: a quantized classifier is made as sure as the float one.

What is rounded to the least squared error gives a little less than it should, layer by layer, and logits fitted
to noisy inputs are drawn to their mean. The classes stay, but not how sure the network is of them. So the last layer's
scales and bias take a factor, at no cost: a temperature (Guo et al. 2017, arXiv 1706.04599) fitted to the float network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxmpq.lower.draft import Draft
from onnxmpq.metrics.metric import Sums, classifier_output, sharpened
from onnxmpq.metrics.score import mean_loss
from onnxmpq.onnx_io.subgraph import names_read
from onnxmpq.operators import is_product
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import QUANTIZED_BITS

FACTORS = 1.02 ** np.array(sorted(range(-5, 21), key=abs))  # 0.91 to 1.49; where all are alike, the first
_FEWEST = 8  # samples that a factor is found on
_RECASTS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_NORMALISES = frozenset({"LogSoftmax", "Softmax"})  # before them there are logits
# These give c f(x) for c x, c > 0.
_CARRIES = _RECASTS | {
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "ReduceMean", "ReduceSum", "Relu",
}  # fmt: skip


def best_logit_scale(draft: Draft) -> float:
    """The factor on the logits of least loss on the samples that judge requantizing; 1 where there is nothing to scale."""
    output, layer = _logits(draft)
    if output is None or layer is None or draft.setting.splits.judging.count < _FEWEST:
        return 1.0
    losses = losses_by_factor(draft, output)
    factor = float(FACTORS[np.argmin(losses)])
    if factor == 1 or not np.isfinite(losses).all():
        return 1.0
    # What lies between the layer and the output may be quantized, and saturate.
    return factor if file_loss(with_logit_scale(draft, factor)) < losses[0] else 1.0


def with_logit_scale(draft: Draft, factor: float) -> Draft:
    """The draft with the scales and the bias of the layer that makes its logits times the factor."""
    _, layer = _logits(draft)
    if factor == 1 or layer is None:
        return draft
    bits = draft.plan[layer.name].weight_bits
    candidates = draft.candidates.copy()
    rounded = candidates.quantized(layer, bits)
    scaled = replace(rounded, scale=(factor * rounded.scale).astype(np.float32))
    bias, own = candidates.bias(layer, bits), candidates.bias(layer, layer.float_bits)
    shift = None if bias is None or own is None else (factor * bias - own).astype(np.float32)
    candidates.replace(layer, scaled, shift)
    return replace(draft, candidates=candidates)


def file_loss(draft: Draft) -> float:
    """The loss of the very file on the samples that judge it: integer kernels add up in integers, which a simulation does not show."""
    session = draft.setting.runtime.session(draft.lowered(), spin=False)
    return mean_loss(draft.setting.expected, session, draft.prepared.metric)


def losses_by_factor(draft: Draft, output: str) -> Sums:
    """The loss with each of `FACTORS` on the logits `output`, float64 [factors]; the first is 1."""
    metric = draft.prepared.metric
    session = draft.setting.runtime.session(draft.lowered(), spin=False)
    distances, weight = np.zeros(len(FACTORS)), 0.0
    for batch, expected in draft.setting.expected.batches():
        found = session.run(batch.feeds)[output]
        distances += [
            metric.distance(expected, {output: sharpened(found, metric.kinds[output], factor)}).sum()
            for factor in FACTORS.tolist()
        ]
        weight += float(metric.weight(expected).sum())
    losses: Sums = distances / max(weight, np.finfo(np.float64).tiny)
    return losses


def _logits(draft: Draft) -> tuple[str | None, Layer | None]:
    """The output of a classifier and the quantized layer that makes it, as far as there are any."""
    prepared = draft.prepared
    output = classifier_output(prepared.metric)
    layer = None if output is None else logit_layer(prepared.model, output, prepared.layers)
    quantized = layer is not None and draft.plan[layer.name].weight_bits in QUANTIZED_BITS
    return (output, layer) if quantized else (None, None)


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
        if is_product(node.op_type):
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
