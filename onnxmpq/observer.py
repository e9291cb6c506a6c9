"""What a compile tells while it runs; the command draws it, a library call may ignore it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.observer.note(text)
