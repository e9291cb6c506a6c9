"""The built-in calibrators, their battery, and what the battery finds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.calibrate.calibrators import (
    CALIBRATORS,
    Calibrator,
    Interval,
    default_calibrator,
    find_calibrator,
)
from onnxmpq.calibrate.calibrators.entropy import divergence, entropy
from onnxmpq.calibrate.calibrators.mean_minmax_3sigma import mean_minmax_3sigma
from onnxmpq.calibrate.calibrators.minmax import minmax
from onnxmpq.calibrate.calibrators.mse import mse, squared_error
from onnxmpq.calibrate.calibrators.percentile import percentile
from onnxmpq.calibrate.histograms import empty_histogram
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.errors import OptionError
from onnxmpq.testing import check_calibrator
from onnxmpq.values.activation_range import INT8, UINT8, ActivationRange, CodeType, range_of
from onnxmpq.values.arrays import Array

OWN = """
from onnxmpq import Calibrator

def most(seen, codes):
    return 0.97 * seen.lowest, 0.97 * seen.highest

WIDE = Calibrator(lambda seen, codes: (seen.lowest, seen.highest), bins=0)
NUMBER = 3
"""


def statistics(values: Array, bins: int = 4096) -> Statistics:
    """As if all values were one sample."""
    low, high = float(values.min()), float(values.max())
    empty = empty_histogram(low, high, bins)
    numbers = np.rint(values / empty.width).astype(np.int64) - empty.first
    counts = np.bincount(numbers.clip(0, len(empty.counts) - 1), minlength=len(empty.counts))
    return Statistics(low, high, low, high, 0.0, 0.0, replace(empty, counts=counts))


def normal(count: int = 200_000) -> Array:
    return np.random.default_rng(0).standard_normal(count)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_built_in_calibrators_keep_the_contract(name: str) -> None:
    check_calibrator(CALIBRATORS[name])


def test_typical_extremes_are_means_and_deviations_within_what_was_seen() -> None:
    seen = Statistics(-9.0, 5.0, -2.0, 3.0, 1.0, 0.5, empty_histogram(-9.0, 5.0, 0))
    assert mean_minmax_3sigma(seen, UINT8) == (-5.0, 4.5)
    assert mean_minmax_3sigma(seen, UINT8, deviations=100.0) == (-9.0, 5.0) == minmax(seen, UINT8)


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentiles_are_those_of_numpy(percent: float) -> None:
    values = normal()
    low, high = percentile(statistics(values), UINT8, percent)
    assert (low, high) == pytest.approx(np.percentile(values, [100 - percent, percent]), abs=0.01)


@pytest.mark.parametrize("codes", [UINT8, INT8, CodeType(4), CodeType(4, signed=True)])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_least_squares_are_near_the_best_of_a_fine_grid(codes: CodeType, shift: float) -> None:
    seen = statistics(normal() + shift)
    found = squared_error(seen.histogram, range_of(*mse(seen, codes), codes))
    grid = [
        (low, high)
        for low in np.linspace(seen.lowest, 0, 41)
        for high in np.linspace(seen.highest / 40, seen.highest, 40)
    ]
    best = min(squared_error(seen.histogram, range_of(*ends, codes)) for ends in grid)
    assert found <= best * 1.03


def test_least_squares_clip_more_where_codes_are_few() -> None:
    seen = statistics(normal())
    assert mse(seen, CodeType(4))[1] < mse(seen, CodeType(8))[1] <= mse(seen, CodeType(16))[1] <= seen.highest


@pytest.mark.parametrize("search", [mse, entropy])
def test_a_far_outlier_is_clipped(search: Interval) -> None:
    values = np.append(normal(1_000_000), 60.0)
    low, high = search(statistics(values), UINT8)
    assert -6 < low < -2
    assert 2 < high < 40


def test_divergence_is_zero_where_every_bin_has_its_code() -> None:
    seen = statistics(normal(), bins=255)
    whole = range_of(seen.histogram.centres[0], seen.histogram.centres[-1])
    assert divergence(seen.histogram, whole) == pytest.approx(0, abs=1e-9)
    assert divergence(seen.histogram, range_of(-1.0, 1.0)) > 0.1


def test_divergence_by_hand() -> None:
    """Bins 0 to 4 under two codes: {1}, {2, 3} and what is beyond; zero is left out."""
    empty = empty_histogram(0.0, 4.0, 4)
    histogram = replace(empty, counts=np.array([100, 2, 3, 1, 4]))
    values = np.array([2, 3, 1 + 4]) / 10  # what is clipped counts to the outermost bin inside
    codes = np.array([2, 2, 2]) / 6  # 3 + 1 spread evenly, without what was clipped
    clipped = ActivationRange(
        1.3, 1, CodeType(2)
    )  # bins 0 | 1 | 2 3 have the codes 1 2 3, and 4 would have code 4
    assert divergence(histogram, clipped) == pytest.approx(float(values @ np.log(values / codes)))


def test_a_calibrator_is_found_by_name_or_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert find_calibrator("mse") is CALIBRATORS["mse"] is default_calibrator(4)
    assert (
        find_calibrator("typical")
        is find_calibrator("mean_minmax_3sigma")
        is default_calibrator(8)
        is default_calibrator(16)
    )
    assert find_calibrator(f"{path}:most").bins > 0
    assert find_calibrator(f"{path}:WIDE").bins == 0
    check_calibrator(find_calibrator(f"{path}:most"))
    with pytest.raises(OptionError, match="is a int; wanted a function"):
        find_calibrator(f"{path}:NUMBER")
    with pytest.raises(OptionError, match="nearest: percentile"):
        find_calibrator("percentiles")


@pytest.mark.parametrize(
    ("before", "now"), [(name, name) for name in CALIBRATORS] + [("typical", "mean_minmax_3sigma")]
)
def test_a_calibrator_is_found_where_it_stood_before(before: str, now: str) -> None:
    found = find_calibrator(f"onnxmpq.activations.calibrators.{before}:{before}")
    assert found == find_calibrator(f"onnxmpq.calibrate.calibrators.{now}:{now}")
    assert found.interval is CALIBRATORS[now].interval


def changing(seen: Statistics, _codes: CodeType) -> tuple[float, float]:
    seen.histogram.counts[0] += 1
    return seen.lowest, seen.highest


def moody() -> Interval:
    shares = iter(np.linspace(0.9, 1, 1000))
    return lambda seen, _: (seen.lowest, seen.highest * next(shares))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: lambda seen, _: (np.nan, seen.highest), "is not finite"),
        (lambda: lambda seen, _: (seen.highest + 1, seen.lowest), "begins at"),
        (moody, "a second look"),
        (lambda: changing, "the histogram was changed"),
        (lambda: lambda *_: (-3.0, 3.0), "not twice"),
        (lambda: lambda seen, _: (seen.lowest / 9, seen.highest / 9), "wanted 30"),
        (lambda: lambda seen, _: (seen.lowest, seen.highest / seen.histogram.counts.sum()), "same samples twice"),
        (lambda: lambda *_: 1 / 0, "division by zero"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(wrong: Callable[[], Interval], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_calibrator(Calibrator(wrong()))
