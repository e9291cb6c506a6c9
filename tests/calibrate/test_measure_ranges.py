from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
import pytest

from onnxmpq.calibrate.calibrators import CALIBRATORS, Calibrator
from onnxmpq.calibrate.calibrators.mean_minmax_3sigma import mean_minmax_3sigma
from onnxmpq.calibrate.measure_ranges import calibrate
from onnxmpq.data import Batch, Dataset
from onnxmpq.errors import DataError, OptionError
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import ActivationRange, range_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.placement import Placement

RUNTIME = Runtime("cpu", threads=1)
MODEL = model_of(
    "g (float[n, 4] x) => (float[n, 4] y) { a = Relu (x)  y = Mul (a, k) }", k=np.array(3.0, np.float32)
)


@dataclass
class Stream:
    """A dataset of rows for `x`; remembers the sizes it was asked for."""

    rows: Array
    sizes: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.rows)

    def batches(self, size: int) -> Iterator[Batch]:
        self.sizes.append(size)
        for start in range(0, self.count, size):
            rows = self.rows[start : start + size]
            yield Batch({"x": rows}, None, len(rows))


def place(*tensors: str, same_scale: tuple[tuple[str, ...], ...] = ()) -> Placement:
    return Placement(tensors, same_scale, {}, frozenset(), {}, (), {})


def ranges(rows: Array, placement: Placement, deviations: float = 3.0) -> dict[str, ActivationRange]:
    calibrator = Calibrator(partial(mean_minmax_3sigma, deviations=deviations), bins=0)
    return calibrate(RUNTIME, MODEL, placement, cast("Dataset", Stream(rows)), calibrator)


def noise(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_many_deviations_give_the_extremes() -> None:
    rows = noise(50)
    found = ranges(rows, place("x", "a", "y"), deviations=1e6)
    assert found["x"] == range_of(float(rows.min()), float(rows.max()))
    assert found["a"] == range_of(0, float(rows.max()))
    assert found["a"].zero_point == 0


def test_few_deviations_clip_outliers() -> None:
    rows = noise(200)
    rows[17, 2] = 1000
    lowest, highest = (values.astype(np.float64) for values in (rows.min(axis=1), rows.max(axis=1)))
    expected = range_of(lowest.mean() - 0.5 * lowest.std(), highest.mean() + 0.5 * highest.std())
    found = ranges(rows, place("x"), deviations=0.5)["x"]
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)
    assert found.zero_point == expected.zero_point


def test_no_range_exceeds_what_was_seen() -> None:
    rows = np.tile(np.array([[-1, 0, 1, 2]], np.float32), (3, 1))
    assert ranges(rows, place("x"))["x"] == range_of(-1, 2)
    assert ranges(noise(1), place("x"))["x"] == range_of(float(noise(1).min()), float(noise(1).max()))


def test_every_tensor_has_its_own_range_and_shares_that_of_its_groups_leader() -> None:
    placement = place("x", "a", "y", same_scale=(("y", "x", "a"),))
    found = ranges(noise(10), placement)
    assert found["x"] != found["a"]
    assert placement.shared(found) == dict.fromkeys("xay", ranges(noise(10), place("y"))["y"])


def test_constants_have_their_own_range() -> None:
    assert ranges(noise(2), place("k"))["k"] == range_of(0, 3)


def test_a_tensor_of_zeros_gets_a_usable_range() -> None:
    assert ranges(np.full((3, 4), -1, np.float32), place("a"))["a"] == ActivationRange(1.0, 0)


def test_nothing_to_measure_needs_no_run() -> None:
    stream = Stream(noise(2))
    assert calibrate(RUNTIME, MODEL, place(), cast("Dataset", stream)) == {}
    assert stream.sizes == []


def test_the_data_are_read_once_sample_by_sample() -> None:
    stream, heard = Stream(noise(3)), list[tuple[int, int]]()
    calibrate(RUNTIME, MODEL, place("x"), cast("Dataset", stream), progress=lambda *done: heard.append(done))
    assert stream.sizes == [1]
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_histograms_take_a_second_pass() -> None:
    stream, heard = Stream(noise(3)), list[tuple[int, int]]()
    calibrate(
        RUNTIME, MODEL, place("x"), cast("Dataset", stream), CALIBRATORS["mse"],
        progress=lambda *done: heard.append(done),
    )  # fmt: skip
    assert stream.sizes == [1, 1]
    assert heard == [(i, 6) for i in range(1, 7)]


def test_what_a_calibrator_chooses_stays_within_what_was_seen() -> None:
    rows = noise(20)
    wide = calibrate(
        RUNTIME, MODEL, place("x"), cast("Dataset", Stream(rows)), Calibrator(lambda *_: (-99, 99))
    )
    assert wide["x"] == range_of(float(rows.min()), float(rows.max()))


@pytest.mark.parametrize("ends", [(1.0, -1.0), (np.nan, 1.0), (0.0, np.nan)])
def test_what_is_no_interval_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match=r"the calibrator gave .* for tensor 'x'"):
        calibrate(RUNTIME, MODEL, place("x"), cast("Dataset", Stream(noise(2))), Calibrator(lambda *_: ends))


@pytest.mark.parametrize(
    "interval", [lambda *_: 1.0, lambda *_: (1, 2, 3), lambda _: (0, 1), lambda *_: ("low", 1)]
)
def test_a_calibrator_that_fails_is_named(interval: Any) -> None:
    with pytest.raises(OptionError, match=r"the calibrator failed on tensor 'x'.*wanted a function"):
        calibrate(RUNTIME, MODEL, place("x"), cast("Dataset", Stream(noise(2))), Calibrator(interval))


def test_order_and_repetition_do_not_matter() -> None:
    rows = noise(40)
    assert ranges(rows, place("a")) == ranges(rows[::-1].copy(), place("a"))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    rows = noise(3)
    rows[1, 1] = value
    with pytest.raises(DataError, match=r"'x' reached .*inf"):
        ranges(rows, place("x"))


def test_samples_in_which_a_tensor_is_empty_do_not_count() -> None:
    model = model_of(
        """g (float[n, 4] x) => (float[n, 4] y) {
          m = ReduceMax <axes = [1], keepdims = 0> (x)
          chosen = Greater (m, k)
          a = Compress <axis = 0> (x, chosen)
          y = Relu (x)
          b = Compress <axis = 0> (x, never)
        }""",
        k=np.array(0.5, np.float32),
        never=np.array([False]),
    )
    rows = np.stack([noise(1, seed)[0] * scale for seed, scale in enumerate((0.01, 1, 0.02, 2, 1))])
    stream = cast("Dataset", Stream(rows))
    found = calibrate(RUNTIME, model, place("x", "a", "b"), stream)
    assert found.keys() == {"x", "a"}  # b never held anything
    chosen = cast("Dataset", Stream(rows[rows.max(axis=1) > 0.5]))
    assert found["a"] == calibrate(RUNTIME, model, place("a"), chosen)["a"]
    assert calibrate(RUNTIME, model, place("a", "b"), stream, CALIBRATORS["minmax"]).keys() == {"a"}
    assert calibrate(RUNTIME, model, place("a", "b"), stream, CALIBRATORS["mse"]).keys() == {"a"}


def test_the_model_is_left_alone() -> None:
    before = MODEL.SerializeToString()
    ranges(noise(2), place("a"))
    assert onnx.ModelProto.FromString(before) == MODEL
