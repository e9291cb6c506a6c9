"""Work on the cores that are ours, whose results come in the order of the items, a few ahead at most.

Threads are for work that ONNX Runtime or a large product of matrices does, which leaves the interpreter to others;
processes for many small steps of NumPy.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from loky import ProcessPoolExecutor

_ORPHANED = 1.0  # seconds between two looks at whether the parent is there

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_confined() -> bool:
    """True where the machine has more than that."""
    return cores() < (os.cpu_count() or 1)


def map_in_threads(work: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """`work` of every item, `workers` of them at a time, yielded in order; no more than that are held.

    What is added up in this order is the same whatever the number of workers.
    """
    with ThreadPoolExecutor(workers) as pool:
        yield from _ordered(pool, work, items, workers)


def map_in_processes(work: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """The same in processes, for a function that can be sent to one; they start before the first item is asked for.

    A process that may have none of its own, and a single worker, do the work themselves. Whatever goes wrong ends
    them at once.
    """
    if workers == 1 or multiprocessing.current_process().daemon:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=end_with_parent)
    done = False
    try:
        for _ in range(workers):
            pool.submit(callable, work)  # nothing but to import what the work needs
        yield from _ordered(pool, work, items, workers + 1)  # the next item is there when a process is free
        done = True
    finally:
        pool.shutdown(wait=True, kill_workers=not done)


def end_with_parent() -> None:
    """In a new process: end when the one that started it has ended, even killed; its work is nobody's then."""
    threading.Thread(target=_wait_for_end, args=(os.getppid(),), daemon=True).start()


def _wait_for_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_ORPHANED)
    os._exit(1)


def _ordered(pool: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
