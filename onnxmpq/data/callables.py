"""Data from a Python callable that yields dicts of arrays, samples first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxmpq.data.samples import LABELS, Binding, Labels, Positions, Sample, Source, as_labels, bind, pick
from onnxmpq.errors import DataError, OnnxmpqError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

Generate = Callable[[], Iterable[Mapping[str, Array]]]
_Chunk = tuple[dict[str, Array], Binding]


def open_callable(generate: Generate, inputs: Sequence[InputSpec], samples: int | None, name: str) -> Source:
    """The first `samples` that `generate()` yields (None: all, so it must end).

    `generate` is called once now, to count and to keep the labels, and again for every pass; it must yield the
    same each time. Raises DataError for arrays that do not fit, and for whatever `generate` itself raises.
    """
    count, step, labels = _survey(_chunks(generate, inputs, name), samples, name)

    def read(positions: Positions) -> Iterator[Sample]:
        start = 0
        for arrays, bound in _chunks(generate, inputs, name):
            if labels is not None and not _continues(labels[start:], arrays.get(LABELS)):
                raise DataError(
                    f"{name} yields other labels than at its first call; it must yield the same each time"
                )
            yield from pick({spec: arrays[array] for spec, array in bound.names.items()}, start, positions)
            start += bound.count
            if start > positions[-1]:
                return

    return Source(name, tuple(inputs), count, step, labels, read)


def _survey(
    chunks: Iterator[_Chunk], samples: int | None, name: str
) -> tuple[int, int | None, Labels | None]:
    """Number of samples (at most `samples`), the batch that the graph demands, and the labels."""
    count, kinds, labels = 0, set(), []
    for arrays, bound in chunks:
        kinds.add((bound.step, bound.labelled))
        if len(kinds) > 1:
            raise DataError(
                f"{name} yields dicts of two kinds; give all the same ranks, and labels to all or none"
            )
        if bound.labelled:
            labels.append(as_labels(arrays[LABELS], name))
        count += bound.count
        if samples is not None and count >= samples:
            count = samples
            break
    if not kinds:
        raise DataError(f"{name} yields nothing; it must yield dicts of arrays, samples first")
    step, labelled = kinds.pop()
    return count, step, np.concatenate(labels)[:count] if labelled else None


def _continues(expected: Labels, found: Array | None) -> bool:
    return found is not None and np.array_equal(expected[: len(found)], found[: len(expected)])


def _chunks(generate: Generate, inputs: Sequence[InputSpec], name: str) -> Iterator[_Chunk]:
    """What `generate` yields, checked; whatever the user's code raises is told in one line."""
    try:
        for number, item in enumerate(generate()):
            what = f"dict {number} of {name}"
            arrays = _as_arrays(item, what)
            yield arrays, bind(inputs, arrays, what)
    except OnnxmpqError:
        raise
    except Exception as error:
        raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error


def _as_arrays(item: Any, what: str) -> dict[str, Array]:
    if not isinstance(item, Mapping):
        raise DataError(f"{what} is a {type(item).__name__}; yield dicts of arrays, samples first")
    return {name: np.asarray(value) for name, value in item.items()}
