"""Histograms of tensors, streamed: the runtime finds each value's bin, and only the counts are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxmpq.calibrate.statistics import Histogram
from onnxmpq.data import Dataset
from onnxmpq.passes.expose.tap_bins import BINS
from onnxmpq.passes.expose.tap_tensors import tap_name
from onnxmpq.runtime.session import Session

PICKED = 16_384  # values of a tensor and run, at most: many samples make up for it
_SMALLEST = 1e-30  # extent of values that float32 still divides by


def empty_histogram(low: float, high: float, bins: int) -> Histogram:
    """About so many bins from `low` to `high`, and to zero, with nothing counted yet; none where `bins` is 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    extent = high - low
    width = extent / bins if bins and extent > _SMALLEST else 1.0
    first = round(low / width)
    return Histogram(width, first, np.zeros(round(high / width) - first + 1 if bins else 0, np.int64))


def fill_histograms(
    session: Session,
    empty: Mapping[str, Histogram],
    dataset: Dataset,
    progress: Callable[[int], None],
) -> dict[str, Histogram]:
    """The histograms by tensor with all samples counted; `session` taps the tensors by `TapBins`."""
    counts = {name: histogram.counts.copy() for name, histogram in empty.items()}
    taps = {name: tap_name(name, BINS) for name in empty}
    done = 0
    for batch in dataset.batches(1):
        outputs = session.run(batch.feeds, list(taps.values()))
        for name, tap in taps.items():
            last = len(counts[name]) - 1  # float32 may put an extreme one bin further
            found = np.clip(outputs[tap] - empty[name].first, 0, last)
            counts[name] += np.bincount(found, minlength=last + 1)
        done += batch.count
        progress(done)
    return {name: Histogram(h.width, h.first, counts[name]) for name, h in empty.items()}
