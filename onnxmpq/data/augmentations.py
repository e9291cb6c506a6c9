"""What a sample is fed as: as it is and, where that is no other image to the network, as its mirror image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmpq.data.samples import IMAGE_CHANNELS, is_channels_last
from onnxmpq.values.arrays import Array

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Augmentations:
    """Every batch as it is and, where there is an `axis` (counted from the end), the other way round along it.

    What is summed over augmentations is divided by their `count`: a sample counts once.
    """

    axis: int | None = None

    @property
    def count(self) -> int:
        return 1 if self.axis is None else 2

    def of(self, feeds: Feeds) -> tuple[Feeds, ...]:
        """The batch in all its augmentations."""
        return (feeds,) if self.axis is None else (feeds, turned(feeds, self.axis))


NO_AUGMENTATION = Augmentations()


def turned(feeds: Feeds, axis: int) -> Feeds:
    """The same the other way round along an axis."""
    return {name: np.ascontiguousarray(np.flip(values, axis)) for name, values in feeds.items()}


def width_axis(shapes: Sequence[Sequence[int]]) -> int | None:
    """Which axis of a graph's only input is an image's width, counted from the end; None for what is no image."""
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    shape = shapes[0]
    axis = -2 if is_channels_last(shape) else -1 if shape[1] in IMAGE_CHANNELS else None
    return axis if axis is not None and shape[axis] > 1 else None
