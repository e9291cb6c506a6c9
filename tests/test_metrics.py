import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.metrics import Metric, OutputKind, choose_metric, classifier_output, kl_divergence


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
    assert choose_metric(model("Relu"), {"y": (1, 3)}).name == "kl"
    assert choose_metric(model("Relu"), {"y": (1, 3, 4)}).name == "nse"
    assert choose_metric(model("Relu"), {"y": (1, 3)}, "nse").name == "nse"
    with pytest.raises(OptionError, match="use --metric nse"):
        choose_metric(model("Relu"), {"y": (1, 3, 4)}, "kl")


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


def test_an_underflowed_probability_is_finite() -> None:
    p, q = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert np.isfinite(kl_divergence(p, q, OutputKind.PROBABILITIES)).all()


@pytest.mark.parametrize("name", ["kl", "nse"])
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
