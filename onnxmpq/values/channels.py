"""Channels of an output that differ in scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.values.arrays import Array


@dataclass(frozen=True, slots=True)
class Channels:
    """Groups of an output's channels, each of which is weighed by itself.

    `axis` is the one that channels lie along, `groups` the channels of each group, together all; a single group is the
    whole output, however large. `floors`: the root mean square below which a group counts as silent, in the output's
    units; 0 where nothing tells of one.
    """

    floors: tuple[float, ...] = (0.0,)
    groups: tuple[tuple[int, ...], ...] = ((),)
    axis: int = 0

    def squares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of squares of each group, float64 [groups]."""
        if len(self.groups) == 1:
            flat = values.ravel()
            return np.array([flat @ flat])
        channels = by_channel(np.square(values), self.axis)
        if len(channels) != sum(map(len, self.groups)):  # a size that depends on the data: each counts as all
            return np.full(len(self.groups), channels.sum())
        return self.by_group(channels)

    def by_group(self, channels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over each group of numbers by channel, float64 [groups]."""
        return np.array([channels[list(group)].sum() for group in self.groups])

    def least(self, values: Array) -> NDArray[np.float64]:
        """The sum of squares below which each group of such values is silent, float64 [groups]."""
        if len(self.groups) == 1:
            return np.array([self.floors[0] ** 2 * values.size])
        a_channel = values.size / max(values.shape[self.axis], 1)
        return np.array([f * f * a_channel * len(g) for f, g in zip(self.floors, self.groups, strict=True)])

    def name(self, group: int) -> str:
        """Which channels a group has: `channels 0 to 3`; nothing where it has all."""
        if len(self.groups) == 1:
            return ""
        return f"channels {_ranges(self.groups[group])}"


def by_channel(values: Array, axis: int | None) -> NDArray[np.float64]:
    """The sums over the other axes than the channels', float64 [channels]; of all values, [1], without one."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    return np.atleast_1d(values.sum(axis=others, dtype=np.float64))


def _ranges(numbers: tuple[int, ...]) -> str:
    """`0 to 3, 7`: the first three runs of consecutive numbers."""
    cuts = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    runs = [(numbers[a], numbers[b - 1]) for a, b in zip([0, *cuts], [*cuts, len(numbers)], strict=True)]
    words = [f"{a} to {b}" if b > a else f"{a}" for a, b in runs[:3]]
    return ", ".join(words) + (" and others" if len(runs) > 3 else "")
