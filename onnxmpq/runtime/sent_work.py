"""Work on its way to a worker: bytes that travel once, known by their content."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cloudpickle

_HELD = 2  # kinds of work, with the sessions that they opened, in each worker
_held: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()
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


def _opened(digest: str, content: bytes | Path) -> Callable[[Any], Any]:
    with _lock:
        if digest not in _held:
            while len(_held) >= _HELD:
                _held.popitem(last=False)
            _held[digest] = cloudpickle.loads(content.read_bytes() if isinstance(content, Path) else content)
        _held.move_to_end(digest)
        return _held[digest]
