import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.errors import DataError
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.output_kinds import Seen, axis_of_classes
from onnxmpq.metrics.score import (
    check_label_range,
    check_labels,
    check_numbers,
    compare,
    glance,
    loss_of_function,
    sureness,
)
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind

LOGITS = Metric("kl", {"y": OutputKind.LOGITS})
SPECS = [InputSpec("x", np.dtype(np.float32), (None, 4))]
X = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)


def session(body: str, output: str = "float[N, 4] y") -> Session:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4] x) => ({output}) {{ {body} }}'
    return Runtime("cpu", 1).session(
        model_of(
            text,
            c=np.array(0.5, np.float32),
            order=np.array([1, 0, 3, 2]),
            i=np.array([1]),
            weak=np.array([1, 1, 0.5, 0.5], np.float32),
            zero=np.zeros(1, np.float32),
            tiny=np.full(1, 1e-9, np.float32),
            first=np.array([4, 0, 0, 0], np.float32),
        )
    )


def data(**arrays: Any) -> Dataset:
    return open_data({"x": X, **arrays}, SPECS, samples=None)


SAME = session("y = Identity (x)")
HALF = session("y = Mul (x, c)")
SWAPPED = session("y = Gather <axis = 1> (x, order)")


def test_a_model_against_itself() -> None:
    before, after = compare(SAME, SAME, data(labels=X.argmax(axis=1)), LOGITS, 7)
    assert before == after
    assert (before.samples, before.top1, before.agreement, before.kl, before.sqnr) == (
        100,
        1.0,
        1.0,
        0.0,
        math.inf,
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_are_what_the_definitions_say(batch_size: int) -> None:
    before, after = compare(SAME, HALF, data(labels=np.zeros(100, np.int64)), LOGITS, batch_size)
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (X.astype(np.float64), X / 2))
    assert before.top1 == after.top1 == (X.argmax(axis=1) == 0).mean()
    assert after.agreement == 1.0
    assert after.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    assert after.sqnr == pytest.approx(10 * math.log10(4), rel=1e-5)


def test_what_the_data_do_not_tell_is_none() -> None:
    before, after = compare(SAME, SWAPPED, data(), LOGITS, 32)
    assert before.top1 is after.top1 is None
    assert after.agreement == 0.0
    _, after = compare(SAME, SWAPPED, data(), Metric("nse", {"y": OutputKind.VALUES}), 32)
    assert after.agreement is after.kl is None
    assert after.sqnr is not None


def test_what_became_nan_has_lost_all_and_is_counted() -> None:
    nan = session("l = Sqrt (x) y = Mul (l, l)")  # NaN for every negative value
    _, after = compare(SAME, nan, data(), Metric("nse", {"y": OutputKind.VALUES}), 32)
    lost = np.square(X[X < 0]).sum() / np.square(X).sum()
    assert after.sqnr == pytest.approx(-10 * math.log10(lost), abs=0.01)
    assert after.outputs["y"].moved == pytest.approx((X < 0).mean())


def test_what_is_nan_in_the_reference_hides_nothing() -> None:
    nan = session("y = Sqrt (x)")
    half = session("l = Sqrt (x) y = Mul (l, c)")
    _, after = compare(nan, half, data(), Metric("nse", {"y": OutputKind.VALUES}), 32)
    assert after.sqnr == pytest.approx(10 * math.log10(4), rel=1e-5)
    assert after.outputs["y"].moved == 0


def test_rows_are_counted_not_samples() -> None:
    four = open_data({"x": np.tile(X, (1, 1))}, [InputSpec("x", np.dtype(np.float32), (4, 4))], samples=None)
    before, after = compare(SAME, HALF, four, LOGITS, 1)
    assert (before.agreement, after.agreement) == (1.0, 1.0)


def test_heat_maps_embeddings_and_positions_are_judged_by_what_they_are() -> None:
    shapes = {"y": OutputKind.HEATMAP}
    _, after = compare(
        session("y = Sigmoid (x)"),
        session("h = Mul (x, c) y = Sigmoid (h)"),
        data(),
        Metric("nse", shapes),
        32,
    )
    assert after.outputs["y"].before_sigmoid == pytest.approx(10 * math.log10(4), rel=1e-4)
    assert after.outputs["y"].agreement == 1.0
    _, after = compare(SAME, SWAPPED, data(), Metric("nse", {"y": OutputKind.EMBEDDING}), 32)
    swapped = X[:, [1, 0, 3, 2]]
    cosines = (X * swapped).sum(1) / np.square(X).sum(1)
    assert after.outputs["y"].cosine == pytest.approx(cosines.mean(), rel=1e-4)
    both = session("a = Unsqueeze (x, i) y = Concat <axis = 1> (a, a)", "float[N, 2, 4] y")
    other = session(
        "g = Gather <axis = 1> (x, order) a = Unsqueeze (g, i) b = Unsqueeze (x, i) y = Concat <axis = 1> (a, b)",
        "float[N, 2, 4] y",
    )
    _, after = compare(both, other, data(), Metric("nse", {"y": OutputKind.POSITIONS}), 32)
    assert after.outputs["y"].agreement == 0.5


def test_the_worst_channels_are_named() -> None:
    channels = Channels((0.0, 0.0), ((0, 1), (2, 3)), 1)
    metric = Metric("nse", {"y": OutputKind.VALUES}, {"y": channels})
    _, after = compare(SAME, session("y = Mul (x, weak)"), data(), metric, 32)
    found = after.outputs["y"]
    assert found.worst == "channels 2 to 3"
    assert found.worst_sqnr == pytest.approx(10 * math.log10(4), rel=1e-4)
    assert found.sqnr is not None
    assert found.sqnr > 6.1


def test_integer_outputs_agree_element_by_element() -> None:
    first = session("y = ArgMax <axis = 1, keepdims = 0> (x)", "int64[N] y")
    second = session("g = Gather <axis = 1> (x, order) y = ArgMax <axis = 1, keepdims = 0> (g)", "int64[N] y")
    before, after = compare(first, second, data(), Metric("nse", {}), 32)
    assert (before.agreement, after.agreement) == (1.0, 0.0)
    assert before.sqnr is None


def test_labels_that_match_by_chance_only() -> None:
    right = X.argmax(axis=1)
    check_labels(SAME, data(labels=right), LOGITS, 32, 0)
    with pytest.raises(DataError, match=r"0\.0% .* no better than chance \(25\.0%\).*--force"):
        check_labels(SAME, data(labels=(right + 1) % 4), LOGITS, 32, 0)
    check_labels(SAME, data(), LOGITS, 32, 0)  # no labels, nothing to check
    few = open_data({"x": X[:10], "labels": (right[:10] + 1) % 4}, SPECS, samples=None)
    check_labels(SAME, few, LOGITS, 32, 0)  # too few to tell
    better = np.where(np.arange(100) < 27, right, (right + 1) % 4)
    with pytest.raises(DataError, match=r"27\.0% .* no better than chance"):  # within three standard errors
        check_labels(SAME, data(labels=better), LOGITS, 32, 0)


def test_a_model_that_always_gives_one_class_is_no_better_than_chance_where_files_are_sorted_by_class() -> (
    None
):
    """Its first samples are all of that class."""
    first = np.tile(np.eye(4, dtype=np.float32)[:1], (1000, 1))
    arrays: dict[str, Array] = {"x": first, "labels": np.arange(4).repeat(250)}
    some = open_data(arrays, SPECS, samples=None)
    with pytest.raises(DataError, match="no better than chance"):
        check_labels(SAME, some, LOGITS, 32, 0)


def test_labels_are_looked_at_no_further_than_they_need_be() -> None:
    runs = []

    class Counted:
        def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> Mapping[str, Array]:
            runs.append(len(feeds["x"]))
            return SAME.run(feeds, names)

    check_labels(cast("Session", Counted()), data(labels=X.argmax(axis=1)), LOGITS, 16, 0)
    assert runs == [16, 16]  # of sixteen nobody can tell


def seen(some: Session, x: Array) -> Seen:
    return glance(some, open_data({"x": x}, SPECS, samples=None), 2, 0)


def test_a_model_that_gives_no_number_is_refused() -> None:
    lost = session("y = Sqrt (x)", "float[N, 4] y")
    some = -np.ones((4, 4), np.float32)
    with pytest.raises(DataError, match=r"nothing but NaN or Inf at output 'y' on 4 samples.*--force"):
        check_numbers(seen(lost, some), "4 samples")
    some[3, 2] = 1
    check_numbers(seen(lost, some), "4 samples")
    check_numbers({"y": [np.array([1])]}, "4 samples")


def test_labels_are_below_the_number_of_classes() -> None:
    labels = np.zeros(100, np.int64)
    labels[7] = 5
    check_label_range(data(labels=labels), {"y": (1, 6)}, LOGITS)
    with pytest.raises(DataError, match=r"go up to 5, but output 'y' has 5 classes, 0 to 4"):
        check_label_range(data(labels=labels), {"y": (1, 5)}, LOGITS)


def test_how_sure_a_model_is_of_what_it_sees() -> None:
    p = np.exp(X.astype(np.float64)) / np.exp(X.astype(np.float64)).sum(axis=1, keepdims=True)
    assert sureness(SAME, data(), LOGITS, 32, 0) == pytest.approx(p.max(axis=1).mean(), rel=1e-6)
    assert sureness(HALF, data(), LOGITS, 32, 0) < sureness(SAME, data(), LOGITS, 32, 0)
    joined = session("s = Constant <value_ints = [1, -1]> () y = Reshape (x, s)", "float[1, M] y")
    assert 0 < sureness(joined, data(), LOGITS, 50, 0) < 1
    many = open_data({"x": np.tile(X, (20, 1))}, SPECS, samples=None)
    assert sureness(SAME, many, LOGITS, 32, 0) == pytest.approx(p.max(axis=1).mean(), rel=0.02)


def test_loss_is_points_with_labels_and_disagreement_without() -> None:
    labels = X.argmax(axis=1)
    all_changed = math.sqrt(len(X) + 1) / len(X)  # one standard error
    assert loss_of_function(SAME, SWAPPED, data(labels=labels), LOGITS, 32) == 1.0 + all_changed
    # Better is no loss.
    assert loss_of_function(SWAPPED, SAME, data(labels=labels), LOGITS, 32) == all_changed
    assert loss_of_function(SAME, SWAPPED, data(), LOGITS, 32) == 1.0 + all_changed
    assert loss_of_function(SAME, HALF, data(), LOGITS, 32) == 1 / len(X)


def test_a_file_that_gives_the_commonest_class_alone_agrees_nowhere_else() -> None:
    rows = np.tile(np.array([4, 0, 0, 0], np.float32), (100, 1))
    rows[:10] = [0, 4, 0, 0]
    constant = session("z = Mul (x, zero) y = Add (z, first)")
    _, after = compare(SAME, constant, open_data({"x": rows}, SPECS, samples=None), LOGITS, 32)
    assert (after.agreement, after.outputs["y"].elsewhere) == (0.9, 0.0)


def test_runs_of_another_shape_are_counted_and_their_sizes_compared() -> None:
    values = Metric("nse", {"y": OutputKind.VALUES})
    twice = session("y = Concat <axis = 0> (x, x)")
    _, after = compare(SAME, twice, data(), values, 50)
    found = after.outputs["y"]
    assert (found.reshaped, found.resized, found.sqnr, found.moved) == (1.0, 2.0, None, 0.0)
    assert compare(SAME, SAME, data(), values, 50)[1].outputs["y"].reshaped == 0.0


def test_zeros_tell_nothing() -> None:
    zeros, noise = session("y = Mul (x, zero)"), session("y = Mul (x, tiny)")
    _, after = compare(zeros, noise, data(), Metric("nse", {"y": OutputKind.VALUES}), 32)
    assert after.outputs["y"].is_silent
    assert after.outputs["y"].sqnr is None


def test_classes_lie_where_logarithms_of_probabilities_say() -> None:
    maps = session(
        "a = Unsqueeze (x, i) j = Unsqueeze (a, i) y = LogSoftmax <axis = 3> (j)", "float[N, 1, 1, 4] y"
    )
    rows = open_data({"x": X}, SPECS, samples=None)
    _, after = compare(maps, maps, rows, Metric("nse", {"y": OutputKind.POSITIONS}), 32)
    assert after.outputs["y"].agreement == 1.0
    logs = np.log(np.array([[[[0.9, 0.2]], [[0.1, 0.8]]]]))
    assert axis_of_classes(logs) == 1
    assert axis_of_classes(np.zeros((1, 3, 4, 4))) == 1
    assert axis_of_classes(np.zeros((1, 5, 7))) == 2


def test_a_size_that_the_data_decide_is_no_group_of_channels() -> None:
    channels = Channels((0.0, 0.0), ((0, 1), (2,)), 1)
    metric = Metric("nse", {"y": OutputKind.VALUES}, {"y": channels})
    longer = {"y": np.ones((1, 5))}
    assert metric.loss(metric.distance(longer, {"y": np.zeros((1, 5))}), metric.weight(longer)) == 1.0
