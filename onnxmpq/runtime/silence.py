"""Native libraries print what no Python handler sees: their streams can be sent to nowhere for a while."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from threading import Lock

_LOCK = Lock()
_DEPTH: Counter[int] = Counter()  # how many are silencing a descriptor now
_SAVED: dict[int, int] = {}  # descriptor -> where it really goes


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Send file descriptor 1 (stdout) or 2 (stderr) to nowhere; does nothing where it is closed.

    Of threads that overlap the first redirects and the last restores: descriptors are the whole process's.
    """
    with _LOCK:
        _DEPTH[descriptor] += 1
        if _DEPTH[descriptor] == 1:
            _redirect(descriptor)
    try:
        yield
    finally:
        with _LOCK:
            _DEPTH[descriptor] -= 1
            if not _DEPTH[descriptor]:
                _restore(descriptor)


def _redirect(descriptor: int) -> None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        (
            sys.stdout if descriptor == 1 else sys.stderr
        ).flush()  # what Python still holds belongs before the silence
    with contextlib.suppress(OSError):  # there is no such stream
        _SAVED[descriptor] = os.dup(descriptor)
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), descriptor)


def _restore(descriptor: int) -> None:
    if descriptor in _SAVED:
        saved = _SAVED.pop(descriptor)
        os.dup2(saved, descriptor)
        os.close(saved)
