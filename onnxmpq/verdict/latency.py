"""Latency of two sessions, interleaved: machines drift, ratios within one run do not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.engine import Array, Session

_ROUNDS = 30
_SECONDS = 3.0
_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds of one run of each at `batch` samples, and their ratio."""

    batch: int
    reference: float
    model: float
    speedup: float  # > 1: the model is faster


def measure_latency(reference: Session, model: Session, feeds: Mapping[str, Array], batch: int) -> Latency:
    """Time both in turn on the same feeds, for at most a few seconds."""
    for _ in range(_WARM_UP):
        _seconds(reference, feeds)
        _seconds(model, feeds)
    pairs: list[tuple[float, float]] = []
    start = time.perf_counter()
    while len(pairs) < _ROUNDS and (len(pairs) < 3 or time.perf_counter() - start < _SECONDS):
        pairs.append((_seconds(reference, feeds), _seconds(model, feeds)))
    reference_seconds, model_seconds = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Latency(
        batch,
        reference_seconds,
        model_seconds,
        reference_seconds / model_seconds,
    )


def _seconds(session: Session, feeds: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start
