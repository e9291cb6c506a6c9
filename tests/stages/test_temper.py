"""Logits as large as the float network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.engine import Array
from onnxmpq.metrics import OutputKind, kl_divergence, sharpened
from onnxmpq.plan import Plan
from onnxmpq.spec import Option
from onnxmpq.stages import temper
from onnxmpq.stages.lowering import Draft, Lowering
from onnxmpq.stages.temper import file_loss, judging, tempered

Lower = Callable[..., Lowering]


def draft_of(lowering: Lowering, bits: int) -> Draft:
    return lowering.draft(Plan({layer.name: Option(bits) for layer in lowering.layers}))


def shrunk(draft: Draft, factor: float) -> Draft:
    """With the last layer's scales and bias times a factor."""
    candidates, layer = draft.candidates.copy(), draft.prepared.layers[-1]
    rounded, bias = candidates.quantized(layer, 8), candidates.bias(layer, 8)
    shift = None if bias is None else (factor * bias - bias).astype(np.float32)
    candidates.settle(layer, replace(rounded, scale=np.float32(factor) * rounded.scale), shift)
    return replace(draft, candidates=candidates)


def test_logits_that_were_shrunk_are_as_large_as_before(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 8)
    small = shrunk(draft, 1 / 1.2)
    after, factor = tempered(small, settled=False)
    assert factor == pytest.approx(1.2, rel=0.02)
    assert file_loss(after) < 0.1 * file_loss(small)


@pytest.mark.parametrize(("settle", "judge", "overlap"), [(4, 8, 0), (12, 8, 4), (16, 16, 16)])
def test_settling_is_judged_on_samples_it_did_not_see_where_there_are_enough(
    lower_classifier: Lower, settle: int, judge: int, overlap: int
) -> None:
    setting = lower_classifier().setting
    assert setting.shares.rounding.count == 16
    effort = replace(setting.request.effort, settle=settle, judge=judge)
    asked = replace(setting, request=replace(setting.request, effort=effort))
    seen = set(setting.shares.rounding.some(settle).positions.tolist())
    judged = judging(asked).positions.tolist()
    assert len(judged) == judge
    assert len(seen.intersection(judged)) >= overlap if overlap else not seen.intersection(judged)


def test_one_batch_of_a_fixed_size_is_not_divided(lower_classifier: Lower) -> None:
    setting = lower_classifier().setting
    data = setting.shares.rounding
    whole = replace(data, source=replace(data.source, step=data.count))
    effort = replace(setting.request.effort, settle=4, judge=8)
    request = replace(setting.request, effort=effort)
    asked = replace(setting, request=request, shares=replace(setting.shares, rounding=whole))
    assert judging(asked).count == data.count


def test_losses_are_those_of_the_metric(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(metric="nse"), 8)
    (output,) = draft.prepared.metric.kinds
    losses = temper._losses(output, [(draft, judging(draft.setting))])
    assert losses[0] == pytest.approx(file_loss(draft))


def test_the_first_roundings_stay(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 3)
    scale = draft.candidates.quantized(draft.prepared.layers[-1], 3).scale.copy()
    after, _ = tempered(draft, settled=False)
    np.testing.assert_array_equal(draft.candidates.quantized(draft.prepared.layers[-1], 3).scale, scale)
    assert file_loss(after) <= file_loss(draft) * 1.0001


def test_a_layer_in_float_keeps_its_logits(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 32)
    assert tempered(draft, settled=False) == (draft, 1.0)


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LOG_PROBABILITIES])
def test_every_kind_of_output_is_sharpened_as_its_logits(kind: OutputKind) -> None:
    logits = np.random.default_rng(0).standard_normal((6, 5, 1)).astype(np.float32)

    def output(values: Array) -> Array:
        logs: Array = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        found: Array = {OutputKind.LOGITS: values, OutputKind.PROBABILITIES: np.exp(logs)}.get(kind, logs)
        return found

    found = sharpened(output(logits), kind, 1.3)
    assert found.dtype == np.dtype(np.float32)
    assert found.shape == logits.shape
    assert kl_divergence(output(1.3 * logits), found, kind).max() < 1e-6
