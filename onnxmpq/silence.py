"""Native libraries print what no Python handler sees: their streams can be sent to nowhere for a while."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Send file descriptor 1 (stdout) or 2 (stderr) to nowhere; does nothing where it is closed."""
    try:
        saved = os.dup(descriptor)
    except OSError:
        yield
        return
    stream = sys.stdout if descriptor == 1 else sys.stderr
    with contextlib.suppress(ValueError, OSError, AttributeError):
        stream.flush()  # what Python still holds belongs before the silence
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
        os.dup2(nowhere.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
