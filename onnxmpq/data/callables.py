"""Data from Python code: a callable, a reader or a generator of dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from onnxmpq.data.runs import Form, fitting, one_run, samples_first
from onnxmpq.data.samples import (
    LABELS,
    REMEMBERED_BYTES,
    Binding,
    Labels,
    Positions,
    Sample,
    Source,
    as_labels,
    pick,
)
from onnxmpq.errors import DataError, OnnxmpqError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

_LARGEST_ONCE = 1 << 30  # bytes of what can be read only once
_FIRST = 8  # samples, by which a callable that gives others at every call shows itself
_Chunk = tuple[dict[str, Array], Binding]
_Block = tuple[int, dict[str, Array]]  # position of its first sample, arrays by graph input


@dataclass(frozen=True, slots=True)
class Feeds:
    """What gives dicts of arrays: `start` from the first one on, at every call where it `repeats`."""

    start: Callable[[], Iterable[Any]]
    repeats: bool

    @classmethod
    def of(cls, given: Any) -> Feeds | None:
        """A callable, a reader such as onnxruntime's CalibrationDataReader, a list or a generator; None for anything else."""
        if callable(given) and (isinstance(given, type) or not hasattr(given, "get_next")):
            return cls(lambda: _read_out(given()), repeats=True)
        if hasattr(given, "get_next"):
            return cls(lambda: _read_out(given), repeats=False)
        if isinstance(given, Iterable) and not isinstance(given, str | bytes | np.ndarray):
            return cls(lambda: given, repeats=isinstance(given, Sequence))
        return None


def open_feeds(feeds: Feeds, inputs: Sequence[InputSpec], samples: int | None, name: str) -> Source:
    """The first `samples` that they hold (None: all, so they must end).

    They are read once now, and kept as far as they are small; others are read again for every pass and must then be the
    same each time, or a note says that they are not. A dict holds samples first, or one run's inputs as `session.run` takes
    them. Raises DataError for arrays that do not fit, and for whatever the user's code raises.
    """
    limit = REMEMBERED_BYTES if feeds.repeats else _LARGEST_ONCE
    found = _survey(_chunks(feeds, inputs, name), samples, name, limit)
    if found.is_whole:

        def read_kept(positions: Positions) -> Iterator[Sample]:
            return chain.from_iterable(pick(block, start, positions) for start, block in found.kept)

        return Source(name, tuple(inputs), found.count, found.step, found.labels, read_kept)
    if not feeds.repeats:
        raise DataError(
            f"{name} can be read only once, and holds more than {limit >> 20} MB; give a callable that starts over, an npz "
            "or fewer --samples"
        )

    def read(positions: Positions) -> Iterator[Sample]:
        for start, arrays in _blocks(_chunks(feeds, inputs, name)):
            if found.labels is not None and not _continues(found.labels[start:], arrays.get(LABELS)):
                raise DataError(
                    f"{name} yields other labels than at its first call; it must yield the same each time"
                )
            yield from pick({spec.name: arrays[spec.name] for spec in inputs}, start, positions)
            if start + _length(arrays) > positions[-1]:
                return

    source = Source(name, tuple(inputs), found.count, found.step, found.labels, read)
    return replace(source, notes=tuple(_changes(found, source)))


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a first reading found: number of samples, the batch that the graph demands, labels, and the first samples themselves.

    `is_whole` where these are all.
    """

    count: int
    step: int | None
    labels: Labels | None
    kept: list[_Block]
    is_whole: bool


def _survey(chunks: Iterator[_Chunk], samples: int | None, name: str, limit: int) -> _Survey:
    """At most `samples` of them, and of these the first ones up to `limit` bytes."""
    count, kinds, labels, kept, room = 0, set(), [], list[_Block](), limit
    for arrays, bound in chunks:
        kinds.add((bound.step, bound.labelled))
        if len(kinds) > 1:
            raise DataError(
                f"{name} yields dicts of two kinds; give all the same ranks, and labels to all or none"
            )
        if bound.labelled:
            labels.append(as_labels(arrays[LABELS], name))
        room -= sum(arrays[array].nbytes for array in bound.names.values())
        if room >= 0 or not kept:  # a copy: the user's code may fill one buffer again and again
            kept.append((count, {spec: np.array(arrays[array]) for spec, array in bound.names.items()}))
        count += bound.count
        if samples is not None and count >= samples:
            count = samples
            break
    if not kinds:
        raise DataError(f"{name} yields nothing; it must yield dicts of arrays, samples first")
    step, labelled = kinds.pop()
    return _Survey(count, step, np.concatenate(labels)[:count] if labelled else None, kept, room >= 0)


def _changes(found: _Survey, source: Source) -> Iterator[str]:
    """Says where a second reading gives other samples than the first."""
    first = np.arange(min(_FIRST, found.count, found.kept[-1][0] + _length(found.kept[-1][1])))
    before = chain.from_iterable(pick(block, start, first) for start, block in found.kept)
    pairs = zip(before, source.read(first), strict=False)
    if not all(np.array_equal(a[spec.name], b[spec.name]) for a, b in pairs for spec in source.inputs):
        yield (
            f"{source.name} yields other samples, or the same in another order, at every call, and they are too large to be "
            "kept: what judges the result is not held apart from what chose it; shuffle by a fixed seed, or give --eval"
        )


def _continues(expected: Labels, found: Array | None) -> bool:
    return found is not None and np.array_equal(expected[: len(found)], found[: len(expected)])


def _read_out(given: Any) -> Iterable[Any]:
    """What an iterable holds, or a reader that gives one after another and then None; one that can starts over. One dict is all."""
    if isinstance(given, Mapping):
        return [given]
    if not hasattr(given, "get_next"):
        return given  # type: ignore[no-any-return]
    if callable(getattr(given, "rewind", None)):
        with suppress(NotImplementedError):  # as in the class that onnxruntime's readers derive from
            given.rewind()
    return iter(given.get_next, None)


def _blocks(chunks: Iterator[_Chunk]) -> Iterator[_Block]:
    """Arrays by graph input, and the labels, with the positions that they begin at."""
    start = 0
    for arrays, bound in chunks:
        more = {LABELS: arrays[LABELS]} if bound.labelled else {}
        yield start, {spec: arrays[array] for spec, array in bound.names.items()} | more
        start += bound.count


def _length(block: Mapping[str, Array]) -> int:
    return len(next(iter(block.values())))


def _chunks(feeds: Feeds, inputs: Sequence[InputSpec], name: str) -> Iterator[_Chunk]:
    """The dicts, checked; whatever the user's code raises is told in one line."""
    forms: tuple[Form, ...] = (samples_first, one_run)
    try:
        for number, item in enumerate(feeds.start()):
            what = f"dict {number} of {name}"
            arrays, bound, form = fitting(forms, inputs, _as_arrays(item, what), what)
            forms = (form,) if form is one_run else forms  # then all are
            yield arrays, bound
    except OnnxmpqError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error


def _as_arrays(item: Any, what: str) -> dict[str, Array]:
    if not isinstance(item, Mapping):
        raise DataError(f"{what} is a {type(item).__name__}; yield dicts of arrays, samples first")
    return {name: np.asarray(value) for name, value in item.items()}
