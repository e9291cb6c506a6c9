"""Latency of sessions, interleaved: machines drift, ratios within one run do not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.engine import Array, Session

_ROUNDS = 30
_SECONDS = 3.0
_CAREFUL = 0.5  # seconds at least, where a choice hangs on the figure


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds of one run of each at `batch` samples, and their ratio."""

    batch: int
    reference: float
    model: float
    speedup: float  # > 1: the model is faster


def measure_latency(reference: Session, model: Session, feeds: Mapping[str, Array], batch: int) -> Latency:
    """Time both in turn on the same feeds, for at most a few seconds."""
    reference_seconds, model_seconds = interleaved((reference, model), feeds)
    return Latency(
        batch,
        reference_seconds,
        model_seconds,
        reference_seconds / model_seconds,
    )


def interleaved(
    sessions: Sequence[Session], feeds: Mapping[str, Array], least: float = 0.0
) -> tuple[float, ...]:
    """Median seconds of a run of each session, timed in turn on the same feeds.

    For a number of rounds and at least so many seconds, but at most a few seconds. Before each timed run goes one that is not: the threads of the session before are still spinning.
    """
    for session in sessions:
        session.run(feeds)
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while (
        len(rounds) < 3
        or (elapsed := time.perf_counter() - start) < least
        or (len(rounds) < _ROUNDS and elapsed < _SECONDS)
    ):
        rounds.append([_second_run(session, feeds) for session in sessions])
    return tuple(statistics.median(times) for times in zip(*rounds, strict=True))


def slowdown(reference: Session, model: Session, feeds: Mapping[str, Array]) -> float:
    """How many times as long as the reference the model takes; below 1 it is faster."""
    before, after = interleaved((reference, model), feeds, _CAREFUL)
    return after / before


def _second_run(session: Session, feeds: Mapping[str, Array]) -> float:
    session.run(feeds)
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start
