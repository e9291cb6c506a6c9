"""The battery for calibrators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxmpq.calibrate.calibrators import Calibrator, Interval
from onnxmpq.calibrate.measure_ranges import calibrate, gather_statistics
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.testing.models import RUNTIME, check, model_of
from onnxmpq.values.activation_range import INT8, UINT8, CodeType, range_of, rounded
from onnxmpq.values.arrays import Array
from onnxmpq.values.placement import Placement

_SAMPLES, _VALUES = 48, 512
_DECIBELS = 30.0  # that 8 bits reach on values without outliers, by any sensible range
_TENSOR = "x"
_MODEL = model_of("g (float[N, 512] x) => (float[N, 512] y) { y = Relu (x) }")


def check_calibrator(calibrator: Calibrator | Interval) -> None:
    """Run a calibrator over values of many shapes, and check that it keeps the contract.

    Checked, for unsigned and for signed codes: its interval is finite, in order, and the same twice; it leaves the
    statistics as they were; values twice as large give an interval twice as large; samples seen twice, or in another
    order, give the same ranges; where values have no outliers, 8 bits keep 30 dB of them. The values are normal,
    half-normal behind a ReLU, negative, uniform, normal with an outlier, constant, and zero throughout.

    Raises AssertionError that names what does not hold.
    """
    found = calibrator if isinstance(calibrator, Calibrator) else Calibrator(calibrator)
    for name, rows in _values():
        for codes in (UINT8, INT8):
            try:
                _check(found, rows, codes)
                if name not in {"outlier", "zero"}:
                    _check_noise(found, rows, codes)
            except Exception as error:
                raise AssertionError(
                    f"{name} values, {'signed' if codes.signed else 'unsigned'} codes: {error}"
                ) from error


def _values() -> Iterator[tuple[str, Array]]:
    """Samples of one tensor, float32 [samples, values]."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((_SAMPLES, _VALUES)).astype(np.float32)
    outlier = normal.copy()
    outlier[5, 7] = 1000
    yield "normal", normal
    yield "half-normal", np.maximum(normal, 0)
    yield "negative", -np.abs(normal) - 1
    yield "uniform", rng.uniform(-1, 3, normal.shape).astype(np.float32)
    yield "outlier", outlier
    yield "constant", np.full_like(normal, 0.3)
    yield "zero", np.zeros_like(normal)


def _check(calibrator: Calibrator, rows: Array, codes: CodeType) -> None:
    seen = _statistics(rows, calibrator.bins)
    before = seen.histogram.counts.copy()
    low, high = calibrator.interval(seen, codes)
    check(bool(np.isfinite([low, high]).all()), f"the interval {low} to {high} is not finite")
    check(low <= high, f"the interval begins at {low} and ends at {high}")
    check(calibrator.interval(seen, codes) == (low, high), "a second look gave another interval")
    check(np.array_equal(seen.histogram.counts, before), "the histogram was changed")
    doubled = calibrator.interval(_doubled(seen), codes)
    check(
        np.allclose(doubled, (2 * low, 2 * high)), f"twice the values gave {doubled}, not twice {low, high}"
    )
    once, twice = (
        calibrate(RUNTIME, _MODEL, _PLACEMENT, _dataset(r), calibrator, codes=codes)[_TENSOR].scale
        for r in (rows, np.concatenate([rows, rows[::-1]]))
    )
    check(bool(np.isclose(once, twice)), f"the same samples twice gave scale {twice} instead of {once}")


def _check_noise(calibrator: Calibrator, rows: Array, codes: CodeType) -> None:
    activation = range_of(*calibrator.interval(_statistics(rows, calibrator.bins), codes), codes)
    ratio = signal_to_noise(rows, rounded(rows, activation))
    check(ratio >= _DECIBELS, f"8 bits keep {ratio:.1f} dB of them, wanted {_DECIBELS:.0f}")


def _statistics(rows: Array, bins: int) -> Statistics:
    return gather_statistics(RUNTIME, _MODEL, [_TENSOR], _dataset(rows), bins)[_TENSOR]


def _doubled(seen: Statistics) -> Statistics:
    histogram = seen.histogram
    return Statistics(
        2 * seen.lowest, 2 * seen.highest, 2 * seen.mean_lowest, 2 * seen.mean_highest, 2 * seen.deviation_lowest,
        2 * seen.deviation_highest, replace(histogram, width=2 * histogram.width),
    )  # fmt: skip


def _dataset(rows: Array) -> Dataset:
    return open_data(
        {_TENSOR: rows}, [InputSpec(_TENSOR, np.dtype(np.float32), (None, _VALUES))], samples=None
    )


_PLACEMENT = Placement((_TENSOR,), (), {}, frozenset(), {}, (), {})
