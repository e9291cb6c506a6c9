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


def tempered(draft: Draft, *, settled: bool) -> tuple[Draft, float]:
    """The draft with its logits times the factor of least loss on calibration samples, and the factor.

    `settled` says whether its layers were fitted to the samples.
    """
    prepared, plan = draft.prepared, draft.plan
    output = classifier_output(prepared.metric)
    layer = None if output is None else logit_layer(prepared.model, output, prepared.layers)
    if output is None or layer is None or plan[layer.name].weight_bits not in QUANTIZED_BITS:
        return draft, 1.0
    factor, most = _best_factor(draft, layer, output, settled=settled)
    if factor == 1:
        return draft, 1.0
    after = _scaled(draft, layer, factor)
    # What lies between the layer and the output may be quantized, and saturate.
    return (after, factor) if file_loss(after) < most else (draft, 1.0)


def file_loss(draft: Draft) -> float:
    """The loss of the very file: integer kernels add up in integers, which a simulation does not show."""
    setting, prepared = draft.setting, draft.prepared
    session = setting.runtime.session(draft.lowered(), spin=False)
    return mean_loss(setting.reference, session, judging(setting), prepared.metric, prepared.batch_size)


def judging(setting: Setting) -> Dataset:
    """The samples that say whether settling helped: where there are enough, others than it sees.

    (A layer of one window a sample sees them all.)
    """
    data, effort = setting.shares.rounding, setting.request.effort
    if not data.divides or effort.settle + effort.judge > data.count:
        return data.some(effort.judge)
    return data.split(effort.settle / data.count, 0)[0].some(effort.judge)  # the rest of `some(settle)`


def _best_factor(draft: Draft, layer: Layer, output: str, *, settled: bool) -> tuple[float, float]:
    """The factor of least loss, and what loss the file is to stay below with it."""
    own = _losses(output, [(draft, judging(draft.setting))])
    others = list(unseen(draft, layer)) if settled and is_learned_by_heart(draft, layer) else []
    losses = _losses(output, others) if others else own
    if not np.isfinite(losses).all():
        return 1.0, own[0]
    best = int(np.argmin(losses))
    return float(_FACTORS[best]), _AS_PROMISED * own[best] if others else own[0]


def _losses(output: str, drafts: Iterable[tuple[Draft, Dataset]]) -> Sums:
    """The loss with each factor, the first of them 1, over all drafts, each of which is run on samples of its own."""
    distances, weight = np.zeros(len(_FACTORS)), 0.0
    for draft, samples in drafts:
        setting, metric = draft.setting, draft.prepared.metric
        session = setting.runtime.session(draft.lowered(), spin=False)
        for batch in samples.batches(draft.prepared.batch_size):
            expected, found = setting.reference.run(batch.feeds), session.run(batch.feeds)[output]
            distances += [
                metric.distance(expected, {output: sharpened(found, metric.kinds[output], factor)}).sum()
                for factor in _FACTORS.tolist()
            ]
            weight += float(metric.weight(expected).sum())
    losses: Sums = distances / max(weight, np.finfo(np.float64).tiny)
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
