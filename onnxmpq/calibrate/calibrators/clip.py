"""Where to clip: the ends of a range that cost least, for calibrators that state what a range costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

from onnxmpq.calibrate.statistics import Histogram, Statistics
from onnxmpq.values.activation_range import ActivationRange, CodeType, range_of

Cost = Callable[[Histogram, ActivationRange], float]
_Ends = tuple[float, float]

_SHARES = tuple(2 ** (-k / 16) for k in range(65))  # of an end: from all to a sixteenth of it


def cheapest(seen: Statistics, codes: CodeType, cost: Cost) -> tuple[float, float]:
    """The interval whose quantization costs least: both ends are drawn in together, then each on its own, twice.

    Of equal costs the wider interval is taken.
    """
    costs = cache(partial(cost, seen.histogram))

    def best(candidates: Iterable[_Ends]) -> _Ends:
        return min(candidates, key=lambda ends: costs(range_of(ends[0], ends[1], codes)))

    low, high = best((seen.lowest * share, seen.highest * share) for share in _SHARES)
    for _ in range(2):
        low = best([(low, high), *((seen.lowest * share, high) for share in _SHARES)])[0]
        high = best([(low, high), *((low, seen.highest * share) for share in _SHARES)])[1]
    return low, high
