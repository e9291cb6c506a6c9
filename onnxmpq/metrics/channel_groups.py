"""Which channels of an output differ in scale: boxes in pixels beside scores in 0..1 are weighed by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxmpq.metrics.makers import UNIT_RANGE, Makers
from onnxmpq.metrics.output_kinds import Seen
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind

FLOOR = 0.01  # of what lies in 0..1: less tells nothing
_APART = 8.0  # times in root mean square, which one int8 scale serves with 3 bits less
_SILENT = 1e-6  # of the largest channel: dead ones belong to the next
_MOST = 16_384  # channels along an axis; more are positions


def channel_groups(
    model: onnx.ModelProto, kinds: Mapping[str, OutputKind], seen: Seen, sizes: Mapping[str, Sequence[int]]
) -> dict[str, Channels]:
    """The groups of each output that is compared as values; `sizes` are the shapes of the graph's tensors."""
    makers = Makers(model)
    values = [name for name, kind in kinds.items() if not kind.is_distribution]
    return {name: _groups(makers, name, seen[name], sizes) for name in values}


def _groups(makers: Makers, name: str, values: Sequence[Array], sizes: Mapping[str, Sequence[int]]) -> Channels:
    """Along the axis on which scales differ most."""
    whole = Channels((FLOOR if makers.op(name) in UNIT_RANGE else 0.0,))
    parts = {axis: _scales(makers, name, values, axis, sizes) for axis in _axes(values)}
    if not parts:
        return whole
    axis = max(parts, key=lambda a: _spread(parts[a][0]))
    scales, floors = parts[axis]
    groups = _split(scales)
    if len(groups) == 1:
        return whole
    return Channels(tuple(float(floors[list(group)].min()) for group in groups), groups, axis)


def _axes(values: Sequence[Array]) -> list[int]:
    """Axes that channels may lie along, of one size in all runs: 1 and the last."""
    rank = values[0].ndim
    if rank < 2 or any(v.ndim != rank or not v.size for v in values):
        return []
    axes = [1] if rank == 2 else [1, rank - 1]
    return [a for a in axes if len({v.shape[a] for v in values}) == 1 and 2 <= values[0].shape[a] <= _MOST]


def _scales(
    makers: Makers, name: str, values: Sequence[Array], axis: int, sizes: Mapping[str, Sequence[int]]
) -> tuple[Array, Array]:
    """The root mean square of each channel, no less than its floor, and the floors: float64 [channels] each."""
    total = sum(_squares(v, axis) for v in values)
    count = sum(v.size for v in values) / values[0].shape[axis]
    floors = _floors(makers, name, axis, values[0].shape[axis], sizes)
    return np.sqrt(total / count + np.square(floors)), floors


def _squares(values: Array, axis: int) -> Array:
    others = tuple(a for a in range(values.ndim) if a != axis)
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    found: Array = np.square(finite).sum(axis=others)
    return found


def _floors(makers: Makers, name: str, axis: int, channels: int, sizes: Mapping[str, Sequence[int]]) -> Array:
    lengths = {tensor: shape[axis] for tensor, shape in sizes.items() if len(shape) > axis}
    parts = makers.along(name, axis, lengths) if name in lengths else [(channels, makers.op(name))]
    floors = np.concatenate([np.full(size, FLOOR if op in UNIT_RANGE else 0.0) for size, op in parts])
    return floors if len(floors) == channels else np.zeros(channels)


def _spread(scales: Array) -> float:
    return float(np.std(np.log(np.maximum(scales, max(scales.max(), 1e-30) * _SILENT))))


def _split(scales: Array) -> tuple[tuple[int, ...], ...]:
    """Channels by scale, parted where the next larger scale is eight times as large; dead ones go with the smallest."""
    order = np.argsort(scales, kind="stable")
    ranked = np.maximum(scales[order], max(scales.max(), 1e-30) * _SILENT)
    alive = int((scales[order] > scales.max() * _SILENT).argmax())
    cuts = [i for i in range(alive + 1, len(order)) if ranked[i] > _APART * ranked[i - 1]]
    groups = np.split(order, cuts)
    return tuple(tuple(sorted(group.tolist())) for group in groups)
