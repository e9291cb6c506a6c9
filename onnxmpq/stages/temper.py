"""temper: a quantized classifier is made as sure as the float one.

What is rounded to the least squared error gives a little less than it should, layer by layer, and logits fitted
to noisy inputs are drawn to their mean. The classes stay, but not how sure the network is of them. So the last layer's
scales and bias take a factor, at no cost: a temperature (Guo et al. 2017, arXiv 1706.04599) fitted to the float network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.metrics import Sums, classifier_output, sharpened
from onnxmpq.model.logits import logit_layer
from onnxmpq.spec import QUANTIZED_BITS, Layer
from onnxmpq.stages.lowering import Draft
from onnxmpq.stages.setting import Setting
from onnxmpq.stages.unseen import is_learned_by_heart, unseen
from onnxmpq.verdict.score import mean_loss

_AS_PROMISED = 1.05  # of what a factor should come to
_FACTORS = 1.02 ** np.array(sorted(range(-5, 21), key=abs))  # 0.91 to 1.49; where all are alike, the first


def tempered(draft: Draft, loss: float, *, settled: bool) -> tuple[Draft, float]:
    """The draft with its logits times the factor of least loss on calibration samples, and the factor.

    `loss` is its own, as `file_loss` gives it; `settled` whether its last layer was fitted to the samples.
    """
    prepared, plan = draft.prepared, draft.plan
    output = classifier_output(prepared.metric)
    layer = None if output is None else logit_layer(prepared.model, output, prepared.layers)
    if output is None or layer is None or plan[layer.name].weight_bits not in QUANTIZED_BITS:
        return draft, 1.0
    own = _losses(output, [(draft, judging(draft.setting))])
    losses = _losses(output, unseen(draft, layer)) if settled and is_learned_by_heart(draft, layer) else own
    best = int(np.argmin(losses))
    factor = float(_FACTORS[best])
    if factor == 1 or not np.isfinite(losses).all():
        return draft, 1.0
    after = _scaled(draft, layer, factor)
    # What lies between the layer and the output may be quantized, and saturate.
    most = loss if losses is own else _AS_PROMISED * own[best]
    return (after, factor) if file_loss(after) < most else (draft, 1.0)


def file_loss(draft: Draft) -> float:
    """The loss of the very file: integer kernels add up in integers, which a simulation does not show."""
    setting, prepared = draft.setting, draft.prepared
    session = setting.runtime.session(draft.lowered(), spin=False)
    return mean_loss(setting.reference, session, judging(setting), prepared.metric, prepared.batch_size)


def judging(setting: Setting) -> Dataset:
    """The samples that say whether settling helped: others than it sees, where there are enough."""
    data, effort = setting.shares.rounding, setting.request.effort
    if effort.settle + effort.judge > data.count:
        return data.some(effort.judge)
    return data.split(effort.settle / data.count, 0)[0].some(effort.judge)  # the rest of `some(settle)`


def _losses(output: str, drafts: Iterable[tuple[Draft, Dataset]]) -> Sums:
    """The loss with each factor, over all drafts, each of which is run on samples of its own."""
    distances, count = np.zeros(len(_FACTORS)), 0
    for draft, samples in drafts:
        setting, metric = draft.setting, draft.prepared.metric
        session = setting.runtime.session(draft.lowered(), spin=False)
        for batch in samples.batches(draft.prepared.batch_size):
            expected, found = setting.reference.run(batch.feeds), session.run(batch.feeds)[output]
            distances += [
                metric.distance(expected, {output: sharpened(found, metric.kinds[output], factor)}).sum()
                for factor in _FACTORS.tolist()
            ]
            count += batch.count
    losses: Sums = distances / count
    return losses


def _scaled(draft: Draft, layer: Layer, factor: float) -> Draft:
    """The draft with the layer's scales and bias times the factor."""
    bits = draft.plan[layer.name].weight_bits
    candidates = draft.candidates.copy()
    rounded = candidates.quantized(layer, bits)
    scaled = replace(rounded, scale=(factor * rounded.scale).astype(np.float32))
    bias, own = candidates.bias(layer, bits), candidates.bias(layer, layer.float_bits)
    shift = None if bias is None or own is None else (factor * bias - own).astype(np.float32)
    candidates.settle(layer, scaled, shift)
    return replace(draft, candidates=candidates)
