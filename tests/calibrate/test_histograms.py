"""Histograms of tensors over several samples, against NumPy."""

import numpy as np
import pytest

from onnxmpq.calibrate.histograms import PICKED, empty_histogram
from onnxmpq.calibrate.measure_ranges import gather_statistics
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.data import InputSpec, open_data
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array

MODEL = model_of("g (float[N, M] x) => (float[N, M] y) { y = Relu (x) }")


def seen(rows: Array, bins: int = 64) -> Statistics:
    data = open_data({"x": rows}, [InputSpec("x", np.dtype(np.float32), (None, rows.shape[1]))], samples=None)
    return gather_statistics(Runtime("cpu", 1), MODEL, ["x", "y"], data, bins)["y"]


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_every_value_is_counted_in_the_bin_of_the_nearest_centre() -> None:
    rows = noise(20, 50)
    found = seen(rows)
    centres, values = found.histogram.centres, np.maximum(rows, 0).ravel()
    nearest = np.abs(values[:, None] - centres).argmin(axis=1)
    np.testing.assert_array_equal(found.histogram.counts, np.bincount(nearest, minlength=len(centres)))
    assert (centres[0], centres[-1]) == pytest.approx((0, found.highest))
    assert found.histogram.counts[0] >= (rows <= 0).sum()


def test_extremes_and_their_spread_over_samples() -> None:
    rows = noise(20, 50)
    found, ends = seen(rows, bins=0), rows.max(axis=1).astype(np.float64)
    assert (found.lowest, found.highest) == (0, ends.max())
    assert (found.mean_highest, found.deviation_highest) == pytest.approx((ends.mean(), ends.std()))
    assert found.histogram.counts.size == 0


def test_of_large_tensors_some_values_count_for_all() -> None:
    counts = seen(noise(3, 5 * PICKED)).histogram.counts
    assert 0.3 * 3 * PICKED < counts.sum() <= 3 * PICKED
    assert counts[0] / counts.sum() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, -1.0), (2.0, 5.0), (-0.3, 7.1), (-1e30, 1e-3)])
def test_bins_reach_from_end_to_end_with_one_around_zero(low: float, high: float) -> None:
    found = empty_histogram(low, high, 100)
    centres = found.centres
    assert 0.0 in centres
    assert len(centres) in {100, 101, 102}
    for end in (min(low, 0), max(high, 0)):
        assert np.abs(centres - end).min() <= found.width / 2 * (1 + 1e-9)


def test_values_without_an_extent_have_one_bin() -> None:
    assert empty_histogram(0.0, 1e-40, 100).counts.shape == (1,)
