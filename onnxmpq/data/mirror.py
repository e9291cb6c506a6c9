"""Mirror images as further samples: each stays beside its original, whatever the samples are divided among."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.data.samples import Array, Positions, Sample

_CHANNELS = (1, 3, 4)
_VIEWS = 2


def width_axis(shapes: Sequence[Sequence[int]]) -> int | None:
    """Which axis of a graph's only input is an image's width, counted from the end; None for what is no image."""
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    _, first, _, last = shapes[0]
    if first in _CHANNELS:
        return -1
    return -2 if last in _CHANNELS else None


def turned(values: Array, axis: int) -> Array:
    """The same the other way round along an axis."""
    return np.ascontiguousarray(np.flip(values, axis))


def mirrored(data: Dataset, axis: int) -> Dataset:
    """Twice the samples: each, then the same the other way round along `axis` (counted from the end)."""
    source = data.source

    def read(positions: Positions) -> Iterator[Sample]:
        wanted = set(positions.tolist())
        originals = np.unique(positions // _VIEWS)
        for number, sample in zip(originals.tolist(), source.read(data.positions[originals]), strict=False):
            for place, view in enumerate(_views(sample, axis), _VIEWS * number):
                if place in wanted:
                    yield view

    labels = None if data.labels is None else data.labels.repeat(_VIEWS)
    count = _VIEWS * data.count
    doubled = replace(
        source, name=f"{source.name} and their mirror images", count=count, labels=labels, read=read, views=_VIEWS
    )  # fmt: skip
    return Dataset(doubled, np.arange(count))


def _views(sample: Sample, axis: int) -> tuple[Sample, Mapping[str, Array]]:
    return sample, {name: np.flip(np.asarray(values), axis) for name, values in sample.items()}
