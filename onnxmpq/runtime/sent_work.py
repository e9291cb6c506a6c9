"""Work on its way to a worker: bytes that travel once, known by their content."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cloudpickle

from onnxmpq.runtime.workers import Opened

_held: OrderedDict[str, Callable[[Any], Any]] = (
    OrderedDict()
)  # one that opens sessions, and one that does not
_lock = Lock()


@dataclass(frozen=True, slots=True)
class SentWork:
    """Work as bytes, and the SHA-256 that these are known by."""

    content: bytes
    digest: str

    @classmethod
    def of(cls, work: Callable[[Any], Any]) -> SentWork:
        content = cloudpickle.dumps(work)
        return cls(content, hashlib.sha256(content).hexdigest())


def done(digest: str, content: bytes | Path, item: Any) -> Any:
    """In a worker: the work of an item; the content is read where the work is not held yet."""
    return _opened(digest, content)(item)


def forget(digests: Collection[str]) -> None:
    """In a worker: let go of these works, and the sessions that they opened."""
    with _lock:
        for digest in digests:
            _held.pop(digest, None)


def _opened(digest: str, content: bytes | Path) -> Callable[[Any], Any]:
    with _lock:
        if digest not in _held:
            work = cloudpickle.loads(content.read_bytes() if isinstance(content, Path) else content)
            alike = [
                other for other, held in _held.items() if isinstance(held, Opened) == isinstance(work, Opened)
            ]
            for other in alike:
                del _held[other]
            _held[digest] = work
        return _held[digest]
