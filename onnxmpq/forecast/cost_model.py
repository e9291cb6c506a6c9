"""What the stages that workers share will cost: forward runs, seconds and bytes moved, for one to a thousand workers.

Everything is counted from the layers' shapes; four numbers turn counts into seconds, measured on one layer (`Pace`).
The pieces of a stage pass through the one process that maps the work, hence through one link.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.rounding.moments import (
    SAMPLES_OF_LARGE_MAPS,
    enough,
    has_moments,
    map_windows,
    passes_over,
)
from onnxmpq.rounding.rows import block_columns, block_count, columns
from onnxmpq.values.layer import Layer

_DOUBLE, _SINGLE = 8, 4  # bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one multiply-accumulate in a `run` of the network and of one product in `rounding`, on one thread; what a worker
    takes to `start`, in seconds; bytes a second through the `link` to the workers.
    """

    run: float
    rounding: float
    start: float
    link: float


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched: `layers` at `widths`, each rounded against `samples`; `changes` of weights run on `judged` samples.

    `batch` samples are a piece of work, of `sample_bytes` each; `model_bytes` is what every worker gets.
    """

    layers: Sequence[Layer]
    widths: Mapping[str, Sequence[int]]
    samples: int
    judged: int
    changes: int
    batch: int
    sample_bytes: int
    model_bytes: int

    @property
    def macs(self) -> int:
        """Of one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def fitted(self) -> list[Layer]:
        """The layers that are rounded against moments."""
        return [layer for layer in self.layers if has_moments(layer) and self.widths.get(layer.name)]


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage: `forwards` of one sample, `seconds` of one worker, in so many `pieces`; bytes `sent` to each worker once, and `moved` with the pieces."""

    name: str
    forwards: float
    seconds: float
    pieces: int
    sent: int
    moved: int

    def bytes_moved(self, workers: int) -> int:
        """To and from all workers."""
        return min(workers, self.pieces) * self.sent + self.moved

    def wall(self, workers: int, pace: Pace) -> float:
        """Seconds with so many workers: the longest share of pieces, or the link where that takes longer.

        What all workers get they hand on to one another, in as many rounds as their number has bits.
        """
        share = math.ceil(self.pieces / workers) / self.pieces * self.seconds if self.pieces else 0.0
        spread = self.sent * min(workers, self.pieces).bit_length()
        return pace.start + spread / pace.link + max(share, self.moved / pace.link)


def stage_costs(search: Search, pace: Pace, workers: int = 1) -> tuple[StageCost, ...]:
    """Moments, rounding and sensitivity; the last is cut as finely as there are workers."""
    return _moments(search, pace), _rounding(search, pace), _sensitivity(search, pace, workers)


def _moments(search: Search, pace: Pace) -> StageCost:
    """Forward runs and the matrices of the windows that are taken, in as many passes as memory asks for.

    A pass is taken to run the whole network; it ends at its last layer, so this is more than it costs.
    """
    few = min(search.samples, SAMPLES_OF_LARGE_MAPS)
    passes = passes_over(search.fitted, search.samples, few)
    products = sum(
        _gram_size(la) * min(map_windows(la, count), enough(la)) for some, count in passes for la in some
    )
    samples = sum(count for _, count in passes)
    batches = [math.ceil(count / search.batch) for _, count in passes]
    back = sum(
        _SINGLE * number * sum(map(_gram_size, some))
        for number, (some, _) in zip(batches, passes, strict=True)
    )
    return StageCost(
        "moments", samples, (samples * search.macs + products) * pace.run, sum(batches),
        len(passes) * search.model_bytes, samples * search.sample_bytes + back,
    )  # fmt: skip


def _rounding(search: Search, pace: Pace) -> StageCost:
    """A layer is a piece: its matrix goes, its codes at each width come back."""
    fitted = search.fitted
    products = sum(la.params * columns(la) * len(search.widths[la.name]) for la in fitted)
    to = sum(_DOUBLE * _gram_size(la) + _SINGLE * la.params for la in fitted)
    back = sum(la.params * len(search.widths[la.name]) for la in fitted)
    return StageCost("rounding", 0.0, products * pace.rounding, len(fitted), 0, to + back)


def _sensitivity(search: Search, pace: Pace, workers: int) -> StageCost:
    """A change runs what lies behind its layer: half of the network on the average."""
    batches = math.ceil(search.judged / search.batch)
    runs = max(1, min(workers // batches, len(search.layers)))
    forwards = search.judged * (search.changes / 2 + 2 * runs)
    sent = search.model_bytes + sum(la.params * len(search.widths[la.name]) for la in search.fitted)
    moved = runs * search.judged * search.sample_bytes
    seconds = forwards * search.macs * pace.run
    return StageCost("sensitivity", forwards, seconds, batches * runs, sent, moved)


def _gram_size(layer: Layer) -> int:
    """Numbers in its matrices of second moments."""
    return layer.group * block_count(layer) * block_columns(layer) ** 2
