"""Which channels of an output differ in scale: boxes in pixels and scores in 0..1 are weighed each by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.metrics.makers import UNIT_RANGE, Makers
from onnxmpq.metrics.metric import Sums
from onnxmpq.metrics.output_kinds import Seen
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels, by_channel
from onnxmpq.values.output_kind import OutputKind

FLOOR = 0.01  # of what lies in 0..1: less tells nothing
_APART = 8.0  # times in root mean square, which one int8 scale serves with 3 bits less
_SILENT = 1e-6  # of the largest channel: dead ones belong to the next
_SHARE = 16  # a lone weak channel among many is no group of its own
_MOST = 16_384  # channels along an axis; more are positions


def output_channels(
    model: onnx.ModelProto, kinds: Mapping[str, OutputKind], seen: Seen, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Channels]:
    """The groups of each output that is compared as values; `shapes` are the shapes of the graph's tensors."""
    makers = Makers(model.graph)
    values = {name: kind for name, kind in kinds.items() if not kind.is_distribution}
    return {
        name: Channels() if kind is OutputKind.EMBEDDING else _groups(makers, name, seen[name], shapes)
        for name, kind in values.items()
    }


def _groups(
    makers: Makers, name: str, values: Sequence[Array], shapes: Mapping[str, Sequence[int]]
) -> Channels:
    """Along the axis on which scales differ most."""
    whole = Channels((FLOOR if makers.op(name) in UNIT_RANGE else 0.0,))
    found = [_along(makers, name, values, axis, shapes) for axis in _axes(values)]
    return max((whole, *found), key=lambda channels: len(channels.groups))


def _axes(values: Sequence[Array]) -> list[int]:
    """Axes that channels may lie along, of one size in all runs: 1 and the last, that of the fewer first."""
    rank = values[0].ndim
    if rank < 2 or any(v.ndim != rank or not v.size for v in values):
        return []
    axes = [a for a in {1, rank - 1} if len({v.shape[a] for v in values}) == 1]
    return sorted((a for a in axes if 2 <= values[0].shape[a] <= _MOST), key=lambda a: values[0].shape[a])


def _along(
    makers: Makers, name: str, values: Sequence[Array], axis: int, shapes: Mapping[str, Sequence[int]]
) -> Channels:
    """What lies in 0..1 is one group, the others are parted by scale."""
    unit = _in_unit_range(makers, name, axis, values[0].shape[axis], shapes)
    parts = [(FLOOR, np.flatnonzero(unit))] if unit.any() else []
    others = np.flatnonzero(~unit)
    if others.size:
        parts += [(0.0, others[group]) for group in _split(_scales(values, axis)[others])]
    groups = tuple(tuple(np.sort(group).tolist()) for _, group in parts)
    return Channels(tuple(floor for floor, _ in parts), groups, axis) if len(parts) > 1 else Channels()


def _in_unit_range(
    makers: Makers, name: str, axis: int, channels: int, shapes: Mapping[str, Sequence[int]]
) -> NDArray[np.bool_]:
    """Which channels lie in 0..1 by what made them, bool [channels]."""
    try:
        parts = makers.along(name, axis, shapes)
    except KeyError:  # a shape that is not known
        parts = []
    found = [np.full(size, op in UNIT_RANGE) for size, op in parts]
    known = np.concatenate(found) if found else np.zeros(0, np.bool_)
    return known if len(known) == channels else np.zeros(channels, np.bool_)


def _scales(values: Sequence[Array], axis: int) -> Sums:
    """The root mean square of each channel, float64 [channels]."""
    finite = (np.where(np.isfinite(v), v, 0).astype(np.float64) for v in values)
    total = sum(by_channel(np.square(v), axis) for v in finite)
    return np.asarray(np.sqrt(total * values[0].shape[axis] / sum(v.size for v in values)))


def _split(scales: Sums) -> list[NDArray[np.intp]]:
    """Channels by scale, parted where the next larger is eight times as large; few ones go with those next to them."""
    order = np.argsort(scales, kind="stable")
    ranked = scales[order]
    alive = int((ranked > ranked[-1] * _SILENT).argmax())
    least = -(-len(order) // _SHARE)
    cuts = [alive]
    for i in range(alive + 1, len(order)):
        if ranked[i] > _APART * ranked[i - 1] and min(i - cuts[-1], len(order) - i) >= least:
            cuts.append(i)
    return np.split(order, cuts[1:])
