"""`--workers`: processes on this machine, one a GPU or one a core, each with its own sessions on one thread."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from loky import ProcessPoolExecutor

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.ordered_pool import cores, end_with_parent
from onnxmpq.runtime.sent_work import SentWork, done

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # items a worker: the next is there when the last is done
_MOST_LOSSES = 3  # workers that may end on one item before it is given up


def worker_count(asked: int | str, *, on_gpus: bool) -> int:
    """How many workers `--workers N|auto` is. Raises OptionError for what is neither, or below one."""
    if asked == "auto":
        return gpus() if on_gpus else cores()
    try:
        count = int(asked)
    except ValueError:
        count = 0
    if count < 1:
        raise OptionError(f"--workers {asked!r} was not understood; give a number of 1 or more, or auto")
    return count


def gpus() -> int:
    """How many GPUs this process may use, by CUDA's driver; 1 where it does not tell."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 1
    found = ctypes.c_int(0)
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(found))
    return 1 if failed else max(found.value, 1)


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
    ) -> Iterator[R]:
        """As `Workers.map`. Raises EngineError naming the item that several workers ended on."""
        del processes
        sent = SentWork.of(work)
        file = Path(self._folder.name) / sent.digest
        file.write_bytes(sent.content)
        waiting: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                waiting.append((item, self._submit(sent.digest, file, item)))
                if len(waiting) >= _AHEAD * self.count:
                    yield self._first(waiting, sent.digest, file, name)
            while waiting:
                yield self._first(waiting, sent.digest, file, name)
        finally:
            for _, future in waiting:
                future.cancel()
            file.unlink(missing_ok=True)

    def _first(
        self, waiting: deque[tuple[Any, Future[Any]]], digest: str, file: Path, name: Callable[[Any], str]
    ) -> Any:
        """The result of the first item; where a worker is lost, what waits is worked on again by new ones."""
        for _ in range(_MOST_LOSSES):
            item, future = waiting[0]
            try:
                found = future.result()
            except BrokenProcessPool:
                self._close(kill=True)
                for index, (other, old) in enumerate(waiting):
                    if not _has_result(old):
                        waiting[index] = (other, self._submit(digest, file, other))
            else:
                waiting.popleft()
                return found
        raise EngineError(
            f"{_MOST_LOSSES} workers ended one after another on {name(item)}: the system may have stopped them for want of "
            "memory; use fewer --workers, or none"
        )

    def _submit(self, digest: str, file: Path, item: Any) -> Future[Any]:
        future: Future[Any]
        try:
            future = self._started().submit(done, digest, file, item)
        except BrokenProcessPool:  # a worker ended while none of its results was asked for
            self._close(kill=True)
            future = self._started().submit(done, digest, file, item)
        return future

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pools += 1
            ranks = Path(self._folder.name) / f"pool{self._pools}"
            ranks.mkdir()
            threads = str(max(1, cores() // self.count))
            self._pool = ProcessPoolExecutor(
                self.count, initializer=_join, initargs=(ranks, self.count, self.on_gpus),
                env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )  # fmt: skip
        return self._pool

    def _close(self, *, kill: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=kill)
            self._pool = None


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _join(ranks: Path, count: int, on_gpus: bool) -> None:
    """In a new worker: take the first rank that is free, and the GPU of that number."""
    end_with_parent()
    for rank in range(count * _MOST_LOSSES):
        try:
            (ranks / str(rank)).touch(exist_ok=False)
        except FileExistsError:
            continue
        if on_gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            known = [device for device in visible.split(",") if device] or [str(i) for i in range(count)]
            os.environ["CUDA_VISIBLE_DEVICES"] = known[rank % len(known)]
        return
