from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.metrics.choose_metric import choose_metric
from onnxmpq.metrics.metric import Metric
from onnxmpq.values.output_kind import OutputKind


def model(op: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[n, 3] x) => (float[n, 3] y) {{ y = {op} (x) }}'
    )


def seen(*shape: int) -> dict[str, list[np.ndarray]]:
    return {"y": [np.zeros(shape, np.float32)]}


def own(folder: Path, result: str) -> Metric:
    """A metric of the user's that gives this."""
    file = folder / "own.py"
    file.write_text(f"def far(reference, outputs):\n    return {result}\n")
    return choose_metric(model("Relu"), seen(1, 3), f"{file}:far")


def test_kl_only_where_every_output_is_a_distribution() -> None:
    assert choose_metric(model("Relu"), seen(1, 3)).name == "soft-kl"
    assert choose_metric(model("Relu"), seen(1, 3, 4)).name == "nse"
    with pytest.raises(OptionError, match="use --metric nse"):
        choose_metric(model("Relu"), seen(1, 3, 4), "kl")
    with pytest.raises(OptionError, match="--metric soft-kl needs"):
        choose_metric(model("Relu"), {}, "soft-kl")


def test_independent_probabilities_are_not_softened_and_no_metric_is_made_up() -> None:
    assert choose_metric(model("Sigmoid"), seen(1, 3)).name == "kl"
    with pytest.raises(OptionError, match="softkl' is not known; choose kl, soft-kl, nse"):
        choose_metric(model("Relu"), seen(1, 3), "softkl")


def test_squared_errors_make_values_of_what_only_looks_like_classes() -> None:
    assert choose_metric(model("Relu"), seen(1, 3), "nse").kinds == {"y": OutputKind.VALUES}
    assert choose_metric(model("Relu"), seen(1, 3), "nse", labelled=True).kinds == {"y": OutputKind.LOGITS}
    asked = {"y": OutputKind.LOGITS}
    assert choose_metric(model("Relu"), seen(1, 3), "nse", asked=asked).kinds == asked
    assert choose_metric(model("Softmax"), seen(1, 3), "nse").kinds == {"y": OutputKind.PROBABILITIES}


def test_a_metric_of_the_users_is_a_mean_over_rows(tmp_path: Path) -> None:
    metric = own(tmp_path, "abs(reference['y'] - outputs['y']).max()")
    reference, outputs = {"y": np.zeros((4, 3))}, {"y": np.full((4, 3), 2.0)}
    distance, weight = metric.distance(reference, outputs), metric.weight(reference)
    distance = distance + metric.distance({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 3))})
    weight = weight + metric.weight({"y": np.zeros((2, 3))})
    assert metric.loss(distance, weight) == pytest.approx(2 * 4 / 6)
    assert metric.kinds == {"y": OutputKind.LOGITS}


def test_a_metric_of_the_users_that_fails_is_named(tmp_path: Path) -> None:
    metric = own(tmp_path, "outputs['z']")
    with pytest.raises(OptionError, match=r"own\.py:far failed on outputs y: KeyError: 'z'; it takes"):
        metric.distance({"y": np.zeros((1, 3))}, {"y": np.zeros((1, 3))})


def test_a_metric_of_the_users_gives_a_number(tmp_path: Path) -> None:
    metric = own(tmp_path, "float('nan')")
    with pytest.raises(OptionError, match=r"far failed on outputs y: ValueError: it gave nan"):
        metric.distance({"y": np.zeros((1, 3))}, {"y": np.zeros((1, 3))})
