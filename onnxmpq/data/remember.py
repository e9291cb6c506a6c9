"""Samples that are read again and again, decoded once: as many as fit a bound of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxmpq.data.samples import Positions, Sample, Source
from onnxmpq.values.arrays import Array

REMEMBERED_BYTES = 128 << 20


def remembered(source: Source, limit: int = REMEMBERED_BYTES) -> Source:
    """The same samples; those read first are kept, up to `limit` bytes in all, and come from memory from then on.

    Memory does not depend on the number of samples. Decoding an image takes as long as a small network does.
    """
    kept: dict[int, Sample] = {}
    room = limit

    def read(positions: Positions) -> Iterator[Sample]:
        nonlocal room
        known = kept.keys() & set(positions.tolist())
        fresh = source.read(np.array([p for p in positions.tolist() if p not in known], positions.dtype))
        for position in positions.tolist():
            if position in known:
                yield _copied(kept[position])
                continue
            sample = next(fresh, None)
            if sample is None:
                return
            # A copy of its own: what a reader gives may be a view of more, or a buffer that it fills again.
            own = _copied(sample)
            size = sum(value.nbytes for value in own.values())
            if position not in kept and size <= room:
                kept[position] = own
                room -= size
            yield sample

    return replace(source, read=read)


def _copied(sample: Sample) -> dict[str, Array]:
    return {name: np.array(value) for name, value in sample.items()}
