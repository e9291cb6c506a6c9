"""`--workers`: processes on this machine, one a GPU or one a core, each with its own sessions on one thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from loky import ProcessPoolExecutor
from loky.process_executor import ShutdownExecutorError, TerminatedWorkerError

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.ordered_pool import cores, end_with_parent, map_in_processes
from onnxmpq.runtime.sent_work import SentWork, done
from onnxmpq.runtime.session import cuda_driver, find_cuda_libraries

T = TypeVar("T")
R = TypeVar("R")

_MOST_LOSSES = 3  # workers that may end on one item before it is given up


def worker_count(asked: int | str, *, on_gpus: bool) -> int:
    """How many workers `--workers N|auto` is. Raises OptionError for what is neither, or below one."""
    if asked == "auto":
        return gpus() if on_gpus else cores()
    try:
        number = asked if type(asked) is int else int(str(asked))
    except ValueError:
        number = 0
    if number < 1:
        raise OptionError(f"--workers {asked!r} was not understood; give a number of 1 or more, or auto")
    return number


def gpus() -> int:
    """How many GPUs this process may use, by CUDA's driver; 1 where it does not tell."""
    cuda = cuda_driver()
    if cuda is None:
        return 1
    found = ctypes.c_int(0)
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(found))
    return 1 if failed else max(found.value, 1)


@dataclass(slots=True)
class _Waiting:
    """An item and its result to come, None where it is to be submitted again; and the pool that it is from."""

    item: Any
    future: Future[Any] | None
    pool: ProcessPoolExecutor | None


@dataclass
class LocalWorkers:
    """A pool of processes that lives as long as the `with` block; whatever goes wrong in that ends them at once."""

    count: int
    on_gpus: bool = False
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory, init=False)
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)
    _pools: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kill=kind is not None)
        self._folder.cleanup()

    def map(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        processes: int = 0,
        name: Callable[[T], str] = str,
    ) -> Generator[R, None, None]:
        """As `Workers.map`. Raises EngineError naming the item that several workers ended on.

        What needs no GPU is not left to as few workers as there are GPUs.
        """
        if self.on_gpus and processes > self.count:
            yield from map_in_processes(work, items, processes)
            return
        sent, most = SentWork.of(work), min(self.count, processes or self.count)
        file = Path(self._folder.name) / sent.digest
        file.write_bytes(sent.content)
        waiting: deque[_Waiting] = deque()
        try:
            for item in items:
                waiting.append(self._submitted(sent, file, _Waiting(item, None, None)))
                if len(waiting) > most:
                    yield self._first(waiting, sent, file, name)
            while waiting:
                yield self._first(waiting, sent, file, name)
        finally:
            for one in waiting:
                if one.future is not None:
                    one.future.cancel()
            with contextlib.suppress(
                OSError
            ):  # Windows, while a worker reads it; the folder goes with the block
                file.unlink(missing_ok=True)

    def _first(self, waiting: deque[_Waiting], sent: SentWork, file: Path, name: Callable[[Any], str]) -> Any:
        """The result of the first item. Where a worker is lost, it is worked on alone: then it is known whose fault it was."""
        first, lost = waiting[0], 0
        while lost < _MOST_LOSSES:
            is_alone = first.future is None  # what waits beside it has its result, or is not submitted
            if is_alone:
                self._submitted(sent, file, first)
            assert first.future is not None
            try:
                found = first.future.result()
            except (TerminatedWorkerError, ShutdownExecutorError):
                lost += is_alone
                self._let_go(waiting)
            except BrokenProcessPool as error:
                raise EngineError(
                    f"{name(first.item)} cannot be sent to a worker or back: {error}"
                ) from error
            else:
                waiting.popleft()
                for one in waiting:
                    if one.future is None:
                        self._submitted(sent, file, one)
                return found
        raise EngineError(
            f"{_MOST_LOSSES} workers ended one after another on {name(first.item)}: the system may have stopped them for want of "
            "memory; use fewer --workers, or none"
        )

    def _let_go(self, waiting: deque[_Waiting]) -> None:
        """Close the pool that the first item was lost in, unless another one is open by now; what it owes is asked again."""
        if waiting[0].pool is self._pool:
            self._close(kill=True)
        for one in waiting:
            if one.pool is not self._pool and not _has_result(one.future):
                one.future = None

    def _submitted(self, sent: SentWork, file: Path, one: _Waiting) -> _Waiting:
        """The item with a result to come, from the pool that is open."""
        for _ in range(2):
            one.pool = self._started()
            try:
                one.future = one.pool.submit(done, sent.digest, file, one.item)
            except BrokenProcessPool:  # a worker ended while none of its results was asked for
                self._close(kill=True)
            else:
                return one
        raise EngineError("workers end as soon as they start")

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pools += 1
            ranks = Path(self._folder.name) / f"pool{self._pools}"
            ranks.mkdir()
            threads = str(max(1, cores() // self.count))
            self._pool = ProcessPoolExecutor(
                self.count, initializer=_join, initargs=(ranks, gpus() if self.on_gpus else 0),
                env={
                    "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
                    "LOKY_MAX_MEMORY_LEAK_SIZE": "1e18",  # what a worker opens for one kind of work is no leak
                },
            )  # fmt: skip
        return self._pool

    def _close(self, *, kill: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=kill)
            self._pool = None


def _has_result(future: Future[Any] | None) -> bool:
    return future is not None and future.done() and not future.cancelled() and future.exception() is None


def _join(ranks: Path, devices: int) -> None:
    """In a new worker: take the first rank that is free and, of so many GPUs, the one whose turn that is."""
    end_with_parent()
    for rank in count():
        try:
            (ranks / str(rank)).touch(exist_ok=False)
        except FileExistsError:
            continue
        if devices:
            visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
            known = visible or [str(i) for i in range(devices)]
            os.environ["CUDA_VISIBLE_DEVICES"] = known[rank % len(known)]
            find_cuda_libraries()
        return
