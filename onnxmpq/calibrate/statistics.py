"""What calibration remembers of a tensor: a few numbers and a histogram, whatever the number of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.values.arrays import Doubles


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """`counts` of values, int64 [bins], in bins of equal `width` whose centres are multiples of it.

    The first bin's centre is `first * width`, and one centre is zero: values that are exactly zero, half of them
    behind a ReLU, are held as what they are.
    """

    width: float
    first: int
    counts: NDArray[np.int64]

    @property
    def centres(self) -> Doubles:
        """The middle of every bin, float64 [bins]."""
        numbers = self.first + np.arange(len(self.counts), dtype=np.float64)
        return numbers * np.float64(self.width)


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """One tensor over all calibration samples that hold any values of it.

    `lowest` and `highest` are the extremes of all; `mean_*` and `deviation_*` are mean and standard deviation of each
    sample's own. `histogram` has no bins where the calibrator asked for none; of a large tensor it holds values
    evenly picked.
    """

    lowest: float
    highest: float
    mean_lowest: float
    mean_highest: float
    deviation_lowest: float
    deviation_highest: float
    histogram: Histogram
