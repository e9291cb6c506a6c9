"""Arrays by name: given ones, and an `.npz` as a stream, all members in lock step, a chunk at a time, never whole.

Format: a zip of `.npy` files (NEP 1), stored or deflated. Pickled objects are refused by their header.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from onnxmpq.data.runs import apart, fitting, one_run, samples_first
from onnxmpq.data.samples import (
    LABELS,
    REMEMBERED_BYTES,
    ArrayInfo,
    Labels,
    Positions,
    Sample,
    Source,
    as_labels,
    bind,
    pick,
)
from onnxmpq.errors import DataError, OnnxmpqError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

_REASON = 200  # characters of somebody else's message
_CHUNK_BYTES = 1 << 20  # of all members together


@dataclass(frozen=True, slots=True)
class _Member:
    """One array of the file; its values start at byte `offset` of the zip member `file`."""

    file: str
    offset: int
    info: ArrayInfo

    @property
    def row_bytes(self) -> int:
        return math.prod(self.info.shape[1:]) * self.info.dtype.itemsize


def open_arrays(arrays: Mapping[str, Array], inputs: Sequence[InputSpec], name: str) -> Source:
    """The samples of a mapping: as those of an npz. Raises DataError for arrays that do not fit."""
    given = {key: np.asarray(array) for key, array in arrays.items()}
    values, bound, _ = fitting((samples_first, apart, one_run), inputs, given, name)
    fed = {spec: values[array] for spec, array in bound.names.items()}

    def read(positions: Positions) -> Iterator[Sample]:
        return pick(fed, 0, positions)

    labels = as_labels(values[LABELS], name) if bound.labelled else None
    return Source(name, tuple(inputs), bound.count, bound.step, labels, read, fed=bound.names)


def open_npz(path: Path, inputs: Sequence[InputSpec]) -> Source:
    """The samples of an npz: one array per graph input, samples first, and `labels` where there are any.

    Reads the headers and the labels only, where the samples come first in all arrays; small ones where they do not are held
    in memory. Raises DataError for a damaged file and for arrays that do not fit.
    """
    members = _read_members(path)
    try:
        bound = bind(inputs, {name: member.info for name, member in members.items()}, str(path))
    except DataError:
        if sum(member.info.bytes for member in members.values()) > REMEMBERED_BYTES:
            raise
        return open_arrays({n: _read_whole(path, member) for n, member in members.items()}, inputs, str(path))
    fed = {name: members[array] for name, array in bound.names.items()}

    def read(positions: Positions) -> Iterator[Sample]:
        return _read_rows(path, fed, positions)

    labels = _read_labels(path, members[LABELS]) if bound.labelled else None
    return Source(str(path), tuple(inputs), bound.count, bound.step, labels, read, fed=bound.names)


def _read_members(path: Path) -> dict[str, _Member]:
    with open_zip(path) as archive:
        return {
            info.filename.removesuffix(".npy"): _read_member(archive, info, path)
            for info in archive.infolist()
        }


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Member:
    what = f"array {info.filename.removesuffix('.npy')!r} of {path}"
    with archive.open(info) as file:
        shape, fortran, dtype = _read_header(file)
        offset = file.tell()
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled objects, which are never loaded; save plain numbers")
    if fortran:
        raise DataError(
            f"{what} is in Fortran order, where samples do not lie one after another; save np.ascontiguousarray(x)"
        )
    member = _Member(info.filename, offset, ArrayInfo(dtype, shape))
    wanted, found = member.info.bytes, info.file_size - offset
    if found != wanted:
        raise DataError(
            f"{what} has {found} bytes of values where its header promises {wanted}; save it again"
        )
    return member


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, Fortran order and dtype. Version 3 of the format is for named fields, which no input takes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"npy format {version[0]}.{version[1]} is not supported")


def _read_rows(path: Path, members: Mapping[str, _Member], positions: Positions) -> Iterator[Sample]:
    """The samples at `positions`, as views of the chunk that is in memory."""
    count = next(iter(members.values())).info.shape[0]
    rows = max(1, _CHUNK_BYTES // sum(member.row_bytes for member in members.values()))
    with open_zip(path) as archive, contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(archive.open(member.file)) for name, member in members.items()}
        for name, member in members.items():
            files[name].read(member.offset)
        for start in range(0, count, rows):
            stop = min(start + rows, count)
            chunk = {name: _read_block(files[name], member, stop - start) for name, member in members.items()}
            yield from pick(chunk, start, positions)


def _read_whole(path: Path, member: _Member) -> Array:
    with open_zip(path) as archive, archive.open(member.file) as file:
        file.read(member.offset)
        return np.frombuffer(file.read(member.info.bytes), member.info.dtype).reshape(member.info.shape)


def _read_block(file: IO[bytes], member: _Member, rows: int) -> Array:
    data = file.read(rows * member.row_bytes)
    if len(data) != rows * member.row_bytes:
        raise EOFError(f"{member.file} ends early")
    return np.frombuffer(data, member.info.dtype).reshape(rows, *member.info.shape[1:])


def _read_labels(path: Path, member: _Member) -> Labels:
    rows = _read_rows(path, {LABELS: member}, np.arange(member.info.shape[0]))
    return as_labels([int(row[LABELS]) for row in rows], str(path))


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
    except (
        Exception
    ) as error:  # zipfile, the decoders and numpy's parsers raise almost anything on damaged files
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        raise DataError(
            f"{path} cannot be read ({reason}): it is truncated, damaged or not a zip file"
        ) from error
