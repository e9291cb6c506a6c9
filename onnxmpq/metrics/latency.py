"""Latency of sessions, interleaved: machines drift, ratios within one run do not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.latency import Latency

_FEWEST, _ROUNDS = 5, 30
_SECONDS = 1.0  # at most, beyond the fewest rounds
_CAREFUL = 2.0  # seconds at least, where a choice hangs on the figure: ratios of 5 rounds spread by 5 % beside other programs
# Measured on two cores and two threads: after 50 ms the threads of the session before no longer spin (after 10 ms they do at
# times), woken threads are slow for some milliseconds, and a session's first run behind another's is slower still.
_PAUSE, _WARM, _TURN = 0.05, 0.01, 0.02


def measure_latency(reference: Session, model: Session, feeds: Mapping[str, Array], batch: int) -> Latency:
    """Time both in turn on the same feeds, for a second or five rounds."""
    rounds = interleaved((reference, model), feeds)
    before, times = medians(rounds)[0], ratio(rounds)
    return Latency(batch, before, before * times, 1 / times)


def slowdown(reference: Session, model: Session, feeds: Mapping[str, Array]) -> float:
    """How many times as long as the reference the model takes; below 1 it is faster."""
    return ratio(interleaved((reference, model), feeds, least=_CAREFUL))


def interleaved(
    sessions: Sequence[Session], feeds: Mapping[str, Array], *, least: float = 0.0, most: float = _SECONDS
) -> list[tuple[float, ...]]:
    """Seconds of a run of each session, timed in turn on the same feeds, round by round.

    At least five rounds and so many seconds; then at most 30 rounds, and no new one after `most` seconds.
    """
    rounds: list[tuple[float, ...]] = []
    start = time.perf_counter()
    while (
        len(rounds) < _FEWEST
        or (elapsed := time.perf_counter() - start) < least
        or (len(rounds) < _ROUNDS and elapsed < most)
    ):
        rounds.append(tuple(seconds_a_run(session, feeds) for session in sessions))
    return rounds


def medians(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median seconds of each session."""
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))


def ratio(rounds: Sequence[Sequence[float]], one: int = 1, other: int = 0) -> float:
    """How many times as long one session takes as another: the median over the rounds."""
    return statistics.median(seconds[one] / seconds[other] for seconds in rounds)


def seconds_a_run(session: Session, feeds: Mapping[str, Array]) -> float:
    """The median of a turn of runs, after a pause and runs that are not timed."""
    time.sleep(_PAUSE)
    _turn(session, feeds, _WARM)
    return statistics.median(_turn(session, feeds, _TURN))


def _turn(session: Session, feeds: Mapping[str, Array], seconds: float) -> list[float]:
    """Seconds of each run, of as many as take so long and at least one."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - start)
    return times
