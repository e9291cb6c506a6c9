"""Latencies: how they are made of runs, not how long these take."""

from __future__ import annotations

import itertools

import pytest

from onnxmpq.metrics import latency
from onnxmpq.metrics.latency import interleaved, measure_latency, medians, ratio
from onnxmpq.values.latency import Latency


class Clock:
    """Time that passes only while a session runs or someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Timed:
    """A session whose runs take these seconds, over and over."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        self._clock, self._seconds, self.runs = clock, itertools.cycle(seconds), 0

    def run(self, _feeds: object) -> None:
        self.runs += 1
        self._clock.now += next(self._seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:  # private: whole seconds are easy to add up
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    monkeypatch.setattr(latency, "_PAUSE", 1.0)
    monkeypatch.setattr(latency, "_WARM", 2.0)
    monkeypatch.setattr(latency, "_TURN", 4.0)
    return clock


def test_a_slow_session_runs_twice_a_round(clock: Clock) -> None:
    session = Timed(clock, 10.0)
    rounds = interleaved((session,), {}, most=0.0)  # type: ignore[arg-type]
    assert rounds == [(10.0,)] * 5
    assert session.runs == 10  # one of each two untimed


def test_a_quick_session_runs_for_its_turn(clock: Clock) -> None:
    session = Timed(clock, 0.5)
    assert interleaved((session,), {}, most=0.0) == [(0.5,)] * 5  # type: ignore[arg-type]
    assert session.runs == 5 * (4 + 8)


def test_rounds_go_on_until_the_least_time_or_the_most_rounds(clock: Clock) -> None:
    a_round = 1 + 2 + 4
    careful = interleaved((Timed(clock, 1.0),), {}, least=50 * a_round)  # type: ignore[arg-type]
    assert len(careful) == 50
    assert len(interleaved((Timed(clock, 1.0),), {}, most=1e9)) == 30  # type: ignore[arg-type]


def test_the_ratio_is_taken_within_rounds(clock: Clock) -> None:
    """A machine that slows down for some rounds slows both."""
    rounds = [(1.0, 0.5), (8.0, 4.0), (2.0, 1.0), (1.0, 0.9), (1.0, 0.5)]
    assert medians(rounds) == (1.0, 0.9)
    assert ratio(rounds) == 0.5
    assert ratio(rounds, 0, 1) == 2.0


def test_speedup_is_how_many_times_as_fast_the_model_is(clock: Clock) -> None:
    found = measure_latency(Timed(clock, 6.0), Timed(clock, 3.0), {}, 32)  # type: ignore[arg-type]
    assert found == Latency(32, 6.0, 3.0, 2.0)
