"""How sure a mean over images is: bootstrap intervals of paired differences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]  # of every image: is its top-1 class the label?

_RESAMPLES = 10_000


def interval(differences: NDArray[np.float64], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of `differences`, one an image, by a bootstrap over the images.

    Differences of hits take few values, so a resample of all images is one draw of how often each value comes.
    """
    values, counts = np.unique(differences, return_counts=True)
    count = len(differences)
    draws = np.random.default_rng(seed).multinomial(count, counts / count, _RESAMPLES)
    low, high = np.quantile(draws @ values / count, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
