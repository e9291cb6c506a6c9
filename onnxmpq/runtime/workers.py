"""The one place that maps work: independent measurements, run here, by processes on this machine, or on a cluster.

Work is a value that can be sent: a function of a module, or a frozen dataclass that is called with an item and opens what
it needs (sessions) where it is called. It travels to each worker once. Results come in the order of the items, so that what
is added up is the same wherever it was made; sessions in work run on one thread, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any, Protocol, TypeVar

from onnxmpq.errors import OptionError
from onnxmpq.runtime.ordered_pool import cores, map_in_processes, map_in_threads
from onnxmpq.runtime.session import resolve_runtime

_opening = RLock()

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Who does the work. `count` is how many items are worked on at a time."""

    @property
    def count(self) -> int: ...

    def map(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        processes: int = 0,
        name: Callable[[T], str] = str,
    ) -> Generator[R, None, None]:
        """`work` of every item, in order; one more item than are worked on is held at most.

        Work is sessions' runs, which threads of one process do as well; or many small steps of NumPy, which are worth as many
        `processes`, and no more at a time: each may hold much. `name` says in an error which item it was. Whatever the work raises comes out here, once.
        """
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """Threads of this process, and processes of its own for small steps."""

    threads: int = 0  # as many as there are cores for us

    @property
    def count(self) -> int:
        return self.threads or cores()

    def map(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        processes: int = 0,
        name: Callable[[T], str] = str,
    ) -> Generator[R, None, None]:
        del name
        if processes:
            return map_in_processes(work, items, processes)
        return map_in_threads(work, items, self.count)


HERE = Here()


def open_workers(
    workers: int | str | None = None, cluster: str | None = None, provider: str = "cpu"
) -> AbstractContextManager[Workers]:
    """The workers of `--workers N|auto` or `--cluster ADDRESS`; this process where neither is given.

    `auto` is one worker a GPU where the `provider` comes to CUDA, one a core otherwise. Raises OptionError for both at once, a number
    below one, or a cluster that is not there or cannot be used.
    """
    if workers is not None and cluster is not None:
        raise OptionError(
            "--workers starts processes here and --cluster uses those of a scheduler; give one of them"
        )
    if cluster is not None:
        from onnxmpq.runtime.cluster import connect  # an optional package

        return connect(cluster)
    if workers is None:
        return nullcontext(HERE)
    from onnxmpq.runtime.local_workers import LocalWorkers, worker_count

    on_gpus = resolve_runtime(provider).provider == "cuda"
    return LocalWorkers(worker_count(workers, on_gpus=on_gpus), on_gpus=on_gpus)


class Opened:
    """A base of work that opens sessions where it is called, by properties that are `opened`: what these keep does not travel."""

    def __getstate__(self) -> dict[str, Any]:
        fields: dict[str, Any] = getattr(self, "__dataclass_fields__", {})
        return {name: value for name, value in vars(self).items() if name in fields}


def opened(make: Callable[[Any], T]) -> T:
    """A property that is made once for all threads that ask for it; `functools.cached_property` is no longer, from Python 3.12 on."""

    def get(self: Any) -> T:
        held = vars(self)
        with _opening:
            if make.__name__ not in held:
                held[make.__name__] = make(self)
        found: T = held[make.__name__]
        return found

    return property(get)  # type: ignore[return-value]  # what it gives, as for cached_property
