from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cifar_probe import cifar_probe
from numpy.typing import NDArray
from onnx import numpy_helper
from shared import needs_shared

from onnxmpq.data import InputSpec, open_data
from onnxmpq.errors import DataError, OptionError
from onnxmpq.normalize.prepare import prepare
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.sensitivity.methods.first_order import FORMS, FirstOrder, cancellation
from onnxmpq.sensitivity.methods.measured import at_every_width
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import model_of, probe_of
from onnxmpq.values.option import Option

RUNTIME = Runtime("cpu", threads=1)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1, 0, 2])
W = RNG.standard_normal((4, 3)).astype(np.float32)
D = {2: 0.25, 4: 0.0625}  # the candidates are off by this times SHAPE
SHAPE = RNG.standard_normal((4, 3)).astype(np.float32)


def linear(end: str = "Identity", **arrays: Any) -> Probe:
    """Softmax regression, whose gradients are x (p - onehot)^T."""
    model = model_of(f"g (float[N, 4] x) => (float[N, 3] y) {{ a = MatMul (x, w) y = {end} (a) }}", w=W)
    data = open_data({"x": X, **arrays}, [InputSpec("x", np.dtype(np.float32), (None, 4))], samples=None)
    prepared = prepare(RUNTIME, model, {"x": X[:1]}, integer=False, batchable=True)
    (layer,) = prepared.layers
    (constant,) = [
        numpy_helper.to_array(i) for i in prepared.model.graph.initializer if i.name == layer.weight
    ]
    return Probe(
        prepared.model, prepared.layers, {layer.name: (Option(2), Option(4))},
        lambda la, bits: {la.weight: constant + np.float32(D[bits]) * SHAPE},
        data, prepared.metric, RUNTIME, prepared.traced, batch_size=4,
    )  # fmt: skip


def expected(form: str, scale: float) -> float:
    p = np.exp(X @ W)
    p = p / p.sum(axis=1, keepdims=True) - np.eye(3)[LABELS]
    g, d = X[:, :, None] * p[:, None, :], scale * SHAPE  # [samples, 4, 3]
    inner, mean = (g * d).sum(axis=(1, 2)), g.mean(axis=0)
    forms = {
        "mean-absolute": np.abs(inner).mean(), "signed": abs(inner.mean()), "elementwise": np.abs(mean * d).sum(),
        "squared": (inner**2).mean(), "diagonal": ((g**2).mean(axis=0) * d**2).sum(),
        "norm": np.linalg.norm(mean) * (d**2).sum(),
    }  # fmt: skip
    return float(forms[form])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["Identity", "Softmax", "LogSoftmax"])
def test_every_form_is_its_formula(form: str, end: str) -> None:
    (found,) = FirstOrder(form)(linear(end, labels=LABELS)).costs.values()
    for option, cost in found.items():
        assert cost == pytest.approx(expected(form, D[option.weight_bits]), rel=1e-4)


def test_how_far_slopes_cancel_is_said() -> None:
    notes: list[str] = []
    FirstOrder()(replace(linear(labels=LABELS), note=notes.append))
    ratio = expected("signed", D[2]) / expected("mean-absolute", D[2])
    assert notes == [
        f"mean slope over mean magnitude of slopes (F2 / F1): {ratio:.2g} in the median, {ratio:.2g} (y) to {ratio:.2g} (y)"
    ]


def test_slopes_are_compared_at_the_narrowest_width(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said = cancellation(
        {"a": np.array([0.1, 0.9]), "b": np.array([0.3, 0.9])}, {"a": np.ones(2), "b": np.ones(2)}
    )
    assert said.endswith("0.2 in the median, 0.1 (a) to 0.3 (b)")
    assert caplog.messages == ["a: F2 / F1 is 0.1", "b: F2 / F1 is 0.3"]


def test_labels_are_drawn_as_often_as_they_are_likely() -> None:
    model = model_of(
        "g (float[N, 3] x) => (float[N, 3] y) { y = MatMul (x, w) }", w=np.eye(3, dtype=np.float32)
    )
    likely = np.array([0.7, 0.2, 0.1], np.float32)
    probe = probe_of(model, {"x": np.tile(np.log(likely), (2000, 1))})
    objective = FirstOrder(labels="drawn").objective(probe)
    drawn = np.concatenate([objective.targets(batch)["y"] for batch in probe.data.batches(500)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 2000, likely, atol=0.05)


def test_the_default_is_the_most_literal_form_with_the_labels_of_the_data() -> None:
    assert METHODS["first-order"] == FirstOrder("mean-absolute", "data")


def test_labels_are_asked_for() -> None:
    with pytest.raises(
        DataError, match=r"needs labels, and 6 samples of .* have none; give --data with an array 'labels'"
    ):
        FirstOrder()(linear())
    for labels in ("likeliest", "drawn"):
        assert FirstOrder(labels=labels)(linear()).samples == 6


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"one output of shape \[N, classes\].*y \(independent probabilities\)"
    ):
        FirstOrder()(linear("Sigmoid", labels=LABELS))
    with pytest.raises(OptionError, match="form 'third' is not known; choose mean-absolute"):
        FirstOrder("third")


def test_a_wider_weight_never_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(D, 4, 0.5)  # rounded worse at 4 bits than at 2
    (found,) = FirstOrder()(linear(labels=LABELS)).costs.values()
    assert found[Option(2)] == found[Option(4)]


def table(probe: Probe, method: Any) -> NDArray[np.float64]:
    costs = method(probe).costs
    return np.array([[costs[name][o] for o in options] for name, options in probe.options.items()])


@pytest.mark.slow
@needs_shared
def test_on_resnet56_the_squared_form_falls_fourfold_a_bit_and_ranks_as_measured() -> None:
    probe = cifar_probe()
    squared = table(probe, FirstOrder("squared"))
    a_bit = (squared[:, 2] / squared[:, 5]) ** (1 / 4)  # from 4 to 8 bits
    assert 3.2 < np.exp(np.log(a_bit).mean()) < 5
    loss = table(probe, at_every_width)
    rows = np.triu_indices(len(loss), 1)
    for a, b in zip(squared.T[2:], loss.T[2:], strict=True):  # from 4 bits up
        assert np.mean(np.sign(a[:, None] - a)[rows] * np.sign(b[:, None] - b)[rows]) > 0.7
