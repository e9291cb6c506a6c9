"""Logits as large as the float network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.metrics.metric import choose_metric, kl_divergence, sharpened
from onnxmpq.requantize import logit_scale
from onnxmpq.requantize.logit_scale import (
    FACTORS,
    best_logit_scale,
    file_loss,
    losses_by_factor,
    with_logit_scale,
)
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.testing import model_of
from onnxmpq.testing.models import example_layer
from onnxmpq.values.arrays import Array
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.score import OutputKind

Lower = Callable[..., Lowering]


def draft_of(lowering: Lowering, bits: int) -> Draft:
    return lowering.draft(Plan({layer.name: Option(bits) for layer in lowering.units}))


def shrunk(draft: Draft, factor: float) -> Draft:
    """With the last layer's scales and bias times a factor."""
    candidates, layer = draft.candidates.copy(), draft.prepared.layers[-1]
    rounded, bias = candidates.quantized(layer, 8), candidates.bias(layer, 8)
    shift = None if bias is None else (factor * bias - bias).astype(np.float32)
    candidates.replace(layer, replace(rounded, scale=np.float32(factor) * rounded.scale), shift)
    return replace(draft, candidates=candidates)


def test_logits_that_were_shrunk_are_as_large_as_before(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 8)
    small = shrunk(draft, 1 / 1.2)
    factor = best_logit_scale(small)
    assert factor == pytest.approx(1.2, rel=0.02)
    assert file_loss(with_logit_scale(small, factor)) < 0.1 * file_loss(small)


def test_losses_are_those_of_the_metric(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(metric="nse"), 8)
    (output,) = draft.prepared.metric.kinds
    losses = losses_by_factor(draft, output)
    assert losses[0] == pytest.approx(file_loss(draft))


def test_the_first_roundings_stay(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 3)
    scale = draft.candidates.quantized(draft.prepared.layers[-1], 3).scale.copy()
    after = with_logit_scale(draft, 1.2)
    np.testing.assert_array_equal(draft.candidates.quantized(draft.prepared.layers[-1], 3).scale, scale)
    found = after.candidates.quantized(draft.prepared.layers[-1], 3).scale
    np.testing.assert_array_equal(found, (1.2 * scale).astype(np.float32))


def test_a_bias_that_was_shifted_is_scaled_with_its_shift(lower_classifier: Lower) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    bias = np.arange(1, 5, dtype=np.float32)
    model = model_of("g (float[N, 3] x) => (float[N, 4] y) { y = Gemm (x, w, b) }", w=weight, b=bias)
    layer = example_layer("y", "Gemm", ("y",), "w", (3, 4), 1, bias="b")
    candidates = Candidates(model, "nearest")
    candidates.replace(layer, quantize(weight, 1, 4), np.full(4, 0.5, np.float32))
    setting = lower_classifier().setting
    metric = choose_metric(model, {"y": (1, 4)})
    prepared = replace(setting.prepared, model=model, layers=(layer,), metric=metric)
    draft = Draft(replace(setting, prepared=prepared), candidates, Plan({"y": Option(4)}), (layer,))
    found = with_logit_scale(draft, 1.2).candidates.bias(layer, 4)
    assert found is not None
    np.testing.assert_allclose(found, 1.2 * (bias + 0.5), rtol=1e-6)


def test_a_factor_that_the_file_is_not_better_for_is_not_taken(
    lower_classifier: Lower, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, losses = draft_of(lower_classifier(), 8), np.linspace(1, 0, len(FACTORS))
    monkeypatch.setattr(logit_scale, "losses_by_factor", lambda *_: losses)
    monkeypatch.setattr(logit_scale, "file_loss", lambda _: 0.5)
    assert best_logit_scale(draft) == FACTORS[-1]
    monkeypatch.setattr(logit_scale, "file_loss", lambda _: 2.0)
    assert best_logit_scale(draft) == 1


def test_few_samples_tell_no_factor(lower_classifier: Lower) -> None:
    small = shrunk(draft_of(lower_classifier(), 8), 1 / 1.2)
    setting, judging = small.setting, small.setting.splits.judging
    few = replace(setting, splits=replace(setting.splits, judging=judging.take(range(7))))
    assert judging.count == 8
    assert best_logit_scale(small) > 1
    assert best_logit_scale(replace(small, setting=few)) == 1


def test_a_layer_in_float_keeps_its_logits(lower_classifier: Lower) -> None:
    draft = draft_of(lower_classifier(), 32)
    assert best_logit_scale(draft) == 1
    assert with_logit_scale(draft, 1.2) is draft


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
