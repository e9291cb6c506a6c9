"""Samples that are read again and again, decoded once: as many as fit a bound of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxmpq.data.samples import Positions, Sample, Source

REMEMBERED_BYTES = 128 << 20


def remembered(source: Source, limit: int = REMEMBERED_BYTES) -> Source:
    """The same samples; those read first are kept, up to `limit` bytes in all, and come from memory from then on.

    Memory does not depend on the number of samples. Decoding an image takes as long as a small network does.
    """
    kept: dict[int, Sample] = {}
    room = limit

    def read(positions: Positions) -> Iterator[Sample]:
        nonlocal room
        fresh = source.read(np.array([p for p in positions.tolist() if p not in kept], positions.dtype))
        for position in positions.tolist():
            if position not in kept:
                sample = next(fresh, None)
                if sample is None:
                    return
                size = sum(np.asarray(value).nbytes for value in sample.values())
                if size > room:
                    yield sample
                    continue
                kept[position] = sample
                room -= size
            yield {name: np.array(value) for name, value in kept[position].items()}

    return replace(source, read=read)
