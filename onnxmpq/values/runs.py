"""Work in runs that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def runs(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in order, in runs of sizes that come to `most` together; one that is larger makes a run of its own."""
    run: list[T] = []
    taken = 0
    for item in items:
        own = size(item)
        if run and taken + own > most:
            yield run
            run, taken = [], 0
        run.append(item)
        taken += own
    if run:
        yield run
