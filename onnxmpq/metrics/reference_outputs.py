"""What a reference gives for samples that are judged by again and again: run once, and held where it is small."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxmpq.data import Batch, Dataset
from onnxmpq.data.augmentations import Feeds
from onnxmpq.metrics.metric import Metric
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array

_HELD_BYTES = 64 << 20

Outputs = Mapping[str, Array]


class Expected:
    """A reference's outputs over data in batches of a size; `most` bytes of them, the first ones, are held.

    What a `metric` does not judge is hidden. A source that gives other samples in another pass gets other outputs, too.
    """

    def __init__(
        self,
        reference: Session,
        data: Dataset,
        batch_size: int,
        most: int = _HELD_BYTES,
        *,
        metric: Metric | None = None,
    ) -> None:
        self._reference, self._data, self._batch_size, self._metric = reference, data, batch_size, metric
        self._held: list[tuple[int, Outputs]] = []  # with what the feeds were told by
        self._room: float = most

    def batches(self) -> Iterator[tuple[Batch, Outputs]]:
        """Each batch with what the reference gives for it, always in the same order."""
        for number, batch in enumerate(self._data.batches(self._batch_size)):
            told = _checksum(batch.feeds)
            if number < len(self._held) and self._held[number][0] == told:
                yield batch, self._held[number][1]
                continue
            outputs: Outputs = self._reference.run(batch.feeds)
            outputs = outputs if self._metric is None else self._metric.judged(outputs, batch.feeds)
            self._hold(number, told, outputs)
            yield batch, outputs

    def _hold(self, number: int, told: int, outputs: Outputs) -> None:
        """Keep the outputs of a batch where those of all before it are kept."""
        size = sum(_size(value) for value in outputs.values())
        if number == len(self._held) and size <= self._room:
            self._held.append((told, outputs))
            self._room -= size


def _checksum(feeds: Feeds) -> int:
    found = 0
    for values in feeds.values():
        found = zlib.crc32(values.data, found)
    return found


def _size(value: Any) -> float:
    """Bytes; a sequence, a map or strings hold who knows how many."""
    return value.nbytes if isinstance(value, np.ndarray) and value.dtype.kind != "O" else math.inf
