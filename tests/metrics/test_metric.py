import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import (
    METRICS,
    TEMPERATURE,
    Metric,
    choose_metric,
    classifier_output,
    kl_divergence,
)
from onnxmpq.values.arrays import Array
from onnxmpq.values.score import OutputKind


def model(op: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[n, 3] x) => (float[n, 3] y) {{ y = {op} (x) }}'
    )


@pytest.mark.parametrize(
    ("op", "shape", "kind"),
    [
        ("Relu", (1, 3), OutputKind.LOGITS),
        ("Relu", (1, 3, 1, 1), OutputKind.LOGITS),
        ("Softmax", (1, 3), OutputKind.PROBABILITIES),
        ("LogSoftmax", (1, 3), OutputKind.LOG_PROBABILITIES),
        ("Sigmoid", (1, 1), OutputKind.INDEPENDENT),
        ("Relu", (1, 1), OutputKind.VALUES),
        ("Softmax", (1, 3, 8, 8), OutputKind.VALUES),
        ("Relu", (3,), OutputKind.VALUES),
    ],
)
def test_the_last_node_and_the_shape_tell_the_kind(op: str, shape: tuple[int, ...], kind: OutputKind) -> None:
    assert choose_metric(model(op), {"y": shape}).kinds == {"y": kind}


def test_kl_only_where_every_output_is_a_distribution() -> None:
    assert choose_metric(model("Relu"), {"y": (1, 3)}).name == "soft-kl"
    assert choose_metric(model("Relu"), {"y": (1, 3, 4)}).name == "nse"
    assert choose_metric(model("Relu"), {"y": (1, 3)}, "nse").name == "nse"
    with pytest.raises(OptionError, match="use --metric nse"):
        choose_metric(model("Relu"), {"y": (1, 3, 4)}, "kl")
    with pytest.raises(OptionError, match="--metric soft-kl needs"):
        choose_metric(model("Relu"), {}, "soft-kl")


def test_logits_and_probabilities_give_one_divergence() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 4)).astype(np.float32)
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (a, b))
    expected = (p * np.log(p / q)).sum(axis=1)
    assert kl_divergence(a, b, OutputKind.LOGITS) == pytest.approx(expected, rel=1e-5)
    assert kl_divergence(p, q, OutputKind.PROBABILITIES) == pytest.approx(expected, rel=1e-4)
    assert kl_divergence(np.log(p), np.log(q), OutputKind.LOG_PROBABILITIES) == pytest.approx(
        expected, rel=1e-4
    )


def test_independent_probabilities_add_up() -> None:
    p, q = np.array([[0.5, 0.9]]), np.array([[0.25, 0.9]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(p, q, OutputKind.INDEPENDENT)[0] == pytest.approx(expected)


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LOG_PROBABILITIES])
def test_a_temperature_divides_the_logits_and_its_square_multiplies(kind: OutputKind) -> None:
    logits, changed = 5 * np.random.default_rng(2).standard_normal((2, 6, 4))
    before, after = (held_by(values, kind) for values in (logits, changed))
    expected = TEMPERATURE**2 * kl_divergence(logits / TEMPERATURE, changed / TEMPERATURE, OutputKind.LOGITS)
    assert kl_divergence(before, after, kind, TEMPERATURE) == pytest.approx(expected)
    soft = Metric("soft-kl", {"y": kind}).distance({"y": before}, {"y": after})
    assert soft[0] == pytest.approx(expected.sum())


def test_what_the_outputs_type_cannot_tell_apart_is_not_blown_up() -> None:
    low, high = (1 / (1 + np.exp(-np.array([[z, -z]], np.float32))) for z in (16.5, 17.5))
    assert kl_divergence(low, high, OutputKind.INDEPENDENT, TEMPERATURE)[0] < 0.02
    logits = np.array([[20.0, 3.0, 2.7, 1.0, 0.0]])
    noise = np.array([[0.0, 0.3, -0.3, 0.2, 0.0]])
    clean, noisy = (held_by(z, OutputKind.PROBABILITIES).astype(np.float16) for z in (logits, logits + noise))
    assert kl_divergence(clean, noisy, OutputKind.PROBABILITIES, TEMPERATURE)[0] < 0.02


def test_another_shape_loses_as_much_as_equal_odds_or_more() -> None:
    logits = np.array([[9.0, *[0.0] * 9]])
    lost = kl_divergence(logits, np.zeros((1, 8)), OutputKind.LOGITS, TEMPERATURE)
    assert lost >= kl_divergence(logits, np.zeros((1, 10)), OutputKind.LOGITS, TEMPERATURE)


def test_independent_probabilities_are_not_softened_and_no_metric_is_made_up() -> None:
    assert choose_metric(model("Sigmoid"), {"y": (1, 3)}).name == "kl"
    with pytest.raises(OptionError, match="softkl' is not known; choose kl, soft-kl, nse"):
        choose_metric(model("Relu"), {"y": (1, 3)}, "softkl")


def held_by(logits: Array, kind: OutputKind) -> Array:
    """What an output of this kind holds where these are the logits."""
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    held: Array = {OutputKind.LOGITS: logits, OutputKind.LOG_PROBABILITIES: logs}.get(kind, np.exp(logs))
    return held


def test_hot_divergence_tends_to_the_spread_of_the_logits_change() -> None:
    rng = np.random.default_rng(3)
    logits, change = rng.standard_normal((2, 5, 7))
    found = kl_divergence(logits, logits + change, OutputKind.LOGITS, 1e4)
    assert found == pytest.approx(change.var(axis=1) / 2, rel=1e-3)


def test_papers_call_kl_what_has_no_temperature() -> None:
    kinds: Mapping[str, OutputKind] = {"y": OutputKind.LOGITS}
    assert Metric("soft-kl", kinds).plain == Metric("kl", kinds)
    assert Metric("nse", kinds).plain == Metric("nse", kinds)


def test_an_underflowed_probability_is_finite() -> None:
    p, q = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert np.isfinite(kl_divergence(p, q, OutputKind.PROBABILITIES)).all()


@pytest.mark.parametrize("name", METRICS)
def test_batches_add_up(name: str) -> None:
    rng = np.random.default_rng(1)
    reference, outputs = ({"y": rng.standard_normal((8, 3))} for _ in range(2))
    metric = Metric(name, {"y": OutputKind.LOGITS})
    whole = metric.loss(metric.distance(reference, outputs), metric.weight(reference))
    parts = [({"y": reference["y"][i : i + 2]}, {"y": outputs["y"][i : i + 2]}) for i in range(0, 8, 2)]
    distance = sum((metric.distance(r, o) for r, o in parts), np.zeros(1))
    weight = sum((metric.weight(r) for r, _ in parts), np.zeros(1))
    assert metric.loss(distance, weight) == pytest.approx(whole)


def test_an_output_of_zeros_does_not_count() -> None:
    assert Metric.loss(np.array([1.0, 2.0]), np.array([0.0, 4.0])) == 0.5
    assert Metric.loss(np.array([0.0]), np.array([0.0])) == 0.0


@pytest.mark.parametrize("kind", list(OutputKind))
def test_no_samples_have_no_divergence(kind: OutputKind) -> None:
    assert kl_divergence(np.zeros((0, 3)), np.zeros((0, 3)), kind).shape == (0,)


def test_the_output_that_holds_the_classes() -> None:
    kinds: Mapping[str, OutputKind] = {"y": OutputKind.PROBABILITIES}
    assert classifier_output(Metric("kl", kinds)) == "y"
    assert classifier_output(Metric("kl", {**kinds, "z": OutputKind.LOGITS})) is None
    assert classifier_output(Metric("nse", {"y": OutputKind.VALUES})) is None
    assert classifier_output(Metric("kl", {"y": OutputKind.INDEPENDENT})) is None
    assert classifier_output(Metric("nse", {})) is None
