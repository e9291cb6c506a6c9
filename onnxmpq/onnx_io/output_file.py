"""Write a file in one piece: under another name in the same folder, then renamed.

A failure or an interrupt leaves the folder as it was, and a file that was there before untouched.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxmpq.errors import OptionError, OutputError


@contextmanager
def written(content: bytes, path: Path, *, protect: Sequence[Path] = ()) -> Iterator[Path]:
    """Write to a temporary name, which the body may still check; renamed to `path` when the body ends.

    Raises OutputError where `path` cannot be written, or is one of the files `protect`, under whatever name.
    """
    require_writable(path, protect)
    part = _part(path)
    try:
        with _explained(path, len(content)):
            _write_through(part, content)
        yield part
        with _explained(path, len(content)):
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def _write_through(part: Path, content: bytes) -> None:
    with part.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # a full disk shows here at the latest
