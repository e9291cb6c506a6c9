"""`--cluster ADDRESS`: the workers of a running Dask scheduler, an optional package (`pip install 'onnxmpq[cluster]'`).

Dask, and not Ray: it is a tenth of the size, pure Python, its scheduler starts in a second, lost workers' tasks go elsewhere by
themselves, and a worker is pinned to a GPU by the environment that it is started in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.sent_work import SentWork, done, forget
from onnxmpq.runtime.session import VERSION

T = TypeVar("T")
R = TypeVar("R")

_SECONDS = 10  # to answer
_ALONE = 60  # seconds after which it is asked whether there are workers


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to a scheduler with workers of the same onnxmpq."""

    client: Any
    sent: set[str] = field(default_factory=set)  # the works that its workers may hold

    @property
    def count(self) -> int:
        threads: dict[str, int] = self.client.nthreads()
        return max(1, sum(threads.values()))

    def map(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        processes: int = 0,
        name: Callable[[T], str] = str,
    ) -> Generator[R, None, None]:
        """As `Workers.map`. Raises EngineError where the workers of an item were lost one after another, or all of them."""
        del processes
        sent, most = SentWork.of(work), self.count
        self.sent.add(sent.digest)
        content = self._submitted(_same, sent.content)
        waiting: deque[tuple[T, Any]] = deque()
        try:
            for item in items:
                waiting.append((item, self._submitted(done, sent.digest, content, item)))
                if len(waiting) > most:
                    yield self._result(*waiting.popleft(), name)
            while waiting:
                yield self._result(*waiting.popleft(), name)
        finally:
            if self.client.status == "running":
                self.client.cancel([content, *(future for _, future in waiting)])

    def _submitted(self, work: Callable[..., Any], *items: Any) -> Any:
        """A task. The work itself is one, too: what is scattered is lost with the workers that hold it, this is made again."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self.client.submit(work, *items, pure=False)

    def _result(self, item: Any, future: Any, name: Callable[[Any], str]) -> Any:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        ended = Event()
        future.add_done_callback(lambda _future: ended.set())
        while not ended.wait(_ALONE):
            if not self.client.nthreads():
                raise EngineError(
                    f"the cluster has had no workers for a minute, and {name(item)} waits for one"
                )
        try:
            return future.result()
        except KilledWorker as error:
            raise EngineError(
                f"workers of the cluster ended one after another on {name(item)}, or on what waited beside it: the system may have "
                "stopped them for want of memory"
            ) from error
        except FutureCancelledError as error:
            raise EngineError(
                f"the cluster gave up {name(item)}: {error}; is its scheduler still there?"
            ) from error


def _same(content: bytes) -> bytes:
    return content


@contextlib.contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """A connection that ends with the block, and with it all that was asked of the workers.

    Raises OptionError where the package is not installed, nothing answers at the address, no worker is there, or one has another
    onnxmpq or ONNX Runtime.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError(
            "--cluster needs the package distributed, which is not installed; pip install 'onnxmpq[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--cluster {address!r}: no Dask scheduler answers there ({error}); start one with `dask scheduler`, and workers with "
            "`dask worker ADDRESS --nthreads 1`"
        ) from error
    with client:
        _check(client, address)
        cluster = Cluster(client)
        try:
            yield cluster
        finally:
            if client.status == "running":
                client.run(forget, list(cluster.sent))


def _check(client: Any, address: str) -> None:
    """Raise OptionError unless workers are there that have our versions: others may round otherwise."""
    try:
        own, found = versions(), client.run(versions)
    except ImportError as error:
        raise OptionError(
            f"--cluster {address!r}: a worker has no onnxmpq ({error}); install it there, too"
        ) from error
    if not found:
        raise OptionError(
            f"--cluster {address!r} has no workers; start some with `dask worker {address} --nthreads 1`"
        )
    for worker, theirs in found.items():
        if theirs != own:
            raise OptionError(
                f"--cluster {address!r}: the worker {worker} has {theirs}, this process has {own}; install the same everywhere"
            )


def versions() -> str:
    """What results depend on, the sources of this package by a digest."""
    package, sources = Path(__file__).parents[1], hashlib.sha256()
    walked = os.walk(package, followlinks=True)  # passes are a link in a checkout
    for path in sorted(
        Path(folder, name) for folder, _, names in walked for name in names if name.endswith(".py")
    ):
        sources.update(path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "onnx", "cloudpickle"))
    return f"onnxmpq {sources.hexdigest()[:8]}, Python {python}, onnxruntime {VERSION}, {packages}"
