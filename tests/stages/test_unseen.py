"""A last layer with few windows is judged on samples that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.engine import Array
from onnxmpq.observer import Observer, Stages
from onnxmpq.plan import Plan
from onnxmpq.request import Request, Sources
from onnxmpq.spec import Option
from onnxmpq.stages import temper
from onnxmpq.stages.calibrate import calibrate
from onnxmpq.stages.load import load
from onnxmpq.stages.lowering import Draft
from onnxmpq.stages.place import place
from onnxmpq.stages.prepare import prepare_model
from onnxmpq.stages.round import round_weights
from onnxmpq.stages.settle import settled_draft
from onnxmpq.stages.unseen import is_learned_by_heart, unseen
from onnxmpq.testing import model_of

NETWORK = """g (float[N, 16] x) => (float[N, 20] y) {
    a = MatMul (x, w1) b = Relu (a) y = Gemm (b, w2, bias)
}"""
RNG = np.random.default_rng(0)


def network() -> onnx.ModelProto:
    shapes = {"w1": (16, 96), "w2": (96, 20), "bias": (20,)}
    return model_of(
        NETWORK, **{n: RNG.normal(0, 3 / np.sqrt(s[0]), s).astype(np.float32) for n, s in shapes.items()}
    )


def inputs(count: int) -> dict[str, Array]:
    return {"x": RNG.standard_normal((count, 16)).astype(np.float32)}


@pytest.fixture
def draft(tmp_path: Path, asked: Callable[..., Request]) -> Draft:
    """Two-bit weights, settled on 128 samples: less than two windows a column of the last layer."""
    onnx.save(network(), tmp_path / "m.onnx")
    sources = Sources(
        model=tmp_path / "m.onnx", output=tmp_path / "out.onnx", data=inputs(128), evaluation=inputs(8), training=None,
        preprocess=None, shapes={}, samples=128,
    )  # fmt: skip
    request = asked(rounding="compensated", widths=(2, 4), force=True)
    loaded = load(sources, request, Stages(Observer()))
    lowering = round_weights(calibrate(loaded, place(loaded, prepare_model(loaded))))
    first = lowering.draft(Plan({layer.name: Option(2) for layer in lowering.layers}))
    return settled_draft(first)[0]


def test_each_half_judges_what_was_fitted_to_the_other(draft: Draft) -> None:
    first, last = draft.prepared.layers
    assert is_learned_by_heart(draft, last)
    (one, others), (two, rest) = unseen(draft, last)
    samples = draft.setting.shares.rounding.positions.tolist()
    assert sorted([*others.positions.tolist(), *rest.positions.tolist()]) == samples
    for some in (one, two):
        np.testing.assert_array_equal(some.constants[first.weight], draft.constants[first.weight])
        assert not np.array_equal(some.constants[last.weight], draft.constants[last.weight])
    assert not np.array_equal(one.constants[last.weight], two.constants[last.weight])


def test_many_windows_tell_enough(draft: Draft) -> None:
    wide, last = draft.prepared.layers[0], draft.prepared.layers[-1]
    assert not is_learned_by_heart(draft, wide)  # 16 columns
    assert not is_learned_by_heart(draft, replace(last, positions=(8, 8)))


def test_what_is_not_settled_is_not_learned(draft: Draft) -> None:
    last = draft.prepared.layers[-1]
    narrow = replace(draft, plan=Plan({**draft.plan.options, last.name: Option(1)}))
    assert not is_learned_by_heart(narrow, last)


def test_the_factor_is_that_of_samples_that_were_not_seen(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves whose logits are too small ask for a factor, whatever the samples that were seen say."""
    last = draft.prepared.layers[-1]
    small = temper._scaled(draft, last, 0.7)
    monkeypatch.setattr(temper, "unseen", lambda _draft, _layer: [(small, draft.setting.shares.rounding)])
    _, seen = temper.tempered(draft, settled=False)
    after, judged = temper.tempered(draft, settled=True)
    assert judged == pytest.approx(seen / 0.7, rel=0.03)
    scales = [some.candidates.quantized(last, 2).scale for some in (after, draft)]
    np.testing.assert_allclose(scales[0], judged * scales[1], rtol=1e-6)
