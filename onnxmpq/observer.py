"""What a compile tells while it runs; the command draws it, a library call may ignore it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[int, int], None]  # (done, of how many)


class Observer:
    """Receives notes and progress; this one ignores both."""

    def note(self, text: str) -> None:
        """A line the user should read once."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, done: int, total: int) -> None:
        """So much of the current stage is done."""

    def expect(self, work: Mapping[str, float], sooner: str) -> None:
        """How much work the long stages are beside each other, the one that has just ended among them, and what would end `sooner`."""


class Attempts(Observer):
    """Tells of one attempt after another as of one piece of work, of about `expected` of them."""

    def __init__(self, told: Progress, expected: int) -> None:
        self._told, self._expected, self._begun = told, expected, 0

    def begin(self) -> None:
        """The next attempt begins."""
        self._begun += 1

    def progress(self, done: int, total: int) -> None:
        """So much of this attempt is done."""
        whole = max(self._expected, self._begun) * total
        self._told((self._begun - 1) * total + done, whole)


@dataclass
class Stages:
    """Times the stages of one compile and passes their names on."""

    observer: Observer
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.observer.stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def expect(self, work: Mapping[str, float], sooner: str) -> None:
        self.observer.expect(work, sooner)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.observer.note(text)
