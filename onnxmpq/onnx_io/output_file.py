"""Write a file in one piece: under another name in the same folder, then renamed.

A failure or an interrupt leaves the folder as it was, and a file that was there before untouched. What a process that was
killed left is removed by the next one that writes into the folder.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from onnxmpq.errors import OptionError, OutputError

if sys.platform != "win32":
    import fcntl

_PARTS = ".onnxmpq-*.part"
_ABANDONED = 86400  # seconds, after which a file is nobody's where there are no locks
_unfinished: set[Path] = set()


@contextmanager
def written(content: bytes, path: Path, *, protect: Sequence[Path] = ()) -> Iterator[Path]:
    """Write to a temporary name, which the body may still check; renamed to `path` when the body ends.

    Raises OutputError where `path` cannot be written, or is one of the files `protect`, under whatever name.
    """
    require_writable(path, protect)
    part = _part(path)
    _unfinished.add(part)
    try:
        with ExitStack() as held:
            with _explained(path, len(content)):
                _write_through(held.enter_context(_opened(part)), content)
            if sys.platform == "win32":
                held.close()  # an open file cannot be renamed there
            yield part
            with _explained(path, len(content)):
                part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(part)


def write_file(content: bytes, path: Path, *, protect: Sequence[Path] = ()) -> None:
    """Write a file at once. Raises OutputError as `written` does."""
    with written(content, path, protect=protect):
        pass


def require_apart(*files: Path) -> None:
    """Raise OptionError where one file would be written twice."""
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise OptionError(
                f"{file} would be written twice; give the model, the report and the sensitivity a file each"
            )
        seen.add(file.resolve())


def require_writable(path: Path, protect: Sequence[Path] = ()) -> None:
    """Raise OutputError where a file at `path` could not be written, as far as that shows before writing it."""
    if any(path.exists() and other.exists() and path.samefile(other) for other in protect):
        raise OutputError(f"{path} is an input of the compile, which is never overwritten; name another file")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_file():
        raise OutputError(
            f"{path} cannot be written: it is {'a folder' if path.is_dir() else 'no regular file'}; name another file"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"{path} cannot be written: folder {path.parent} is read-only for you; name another folder"
        )
    _remove_abandoned(path.parent)
    trial = _part(path)  # what the permissions say is not all: /proc, a read-only mount
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; name another folder"
        ) from error
    finally:
        with suppress(OSError):  # a folder that takes files and gives none back
            trial.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """A name in the same folder that no other file has."""
    return path.with_name(f".onnxmpq-{secrets.token_hex(6)}.part")


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} ({size:,} bytes) cannot be written: {error.strerror or error}; "
            "free some space, or name another folder with -o"
        ) from error


def remove_unfinished() -> None:
    """Remove the files that are being written: the process is about to end in the middle of it."""
    for part in tuple(_unfinished):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed left: a living one holds a lock on what it writes."""
    for part in folder.glob(_PARTS):
        with suppress(OSError):
            if _is_abandoned(part):
                part.unlink(missing_ok=True)


def _is_abandoned(part: Path) -> bool:
    if sys.platform == "win32":
        return time.time() - part.stat().st_mtime > _ABANDONED
    with part.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _opened(part: Path) -> BinaryIO:
    """A new file, locked as long as it is open. One that another process took for abandoned before is made anew."""
    while True:
        stream = part.open("xb")
        if sys.platform == "win32":
            return stream
        with suppress(OSError):  # there are file systems without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()


def _write_through(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())  # a full disk shows here at the latest
