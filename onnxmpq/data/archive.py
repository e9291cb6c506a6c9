"""Open a zip file, with all that can be wrong with it told as DataError."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from onnxmpq.errors import DataError, OnnxmpqError

# What zipfile, zlib and numpy's header parser raise on damaged, encrypted or unknown content.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, for reading; whatever goes wrong inside the block because of the file is a DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OnnxmpqError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except _DAMAGE as error:
        raise DataError(
            f"{path} cannot be read ({error}): it is truncated, damaged or not a zip file"
        ) from error
