"""One layer at each of its widths, rounded against the moments of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.rounding.compensate import bias_shift, compensate
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.shrink import shrunk
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.values.arrays import Floats
from onnxmpq.values.layer import Layer
from onnxmpq.values.quantized_weight import Grids, QuantizedWeight


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What it takes to round a layer: its weight (float32), the moments, the widths, what the file may hold."""

    layer: Layer
    weight: Floats
    moments: Moments
    widths: Sequence[int]
    grids: Grids


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A layer's roundings by width, and what its bias gains at each (no bias: nothing)."""

    layer: Layer
    rounded: Mapping[int, QuantizedWeight]
    shifts: Mapping[int, Floats]


def fitted(task: Task) -> Fitted:
    """Compensated from two bits up; one bit so that the errors' sums cancel."""
    layer, moments = task.layer, task.moments
    known = moments if layer.bias is None else moments.centred()
    wide = [bits for bits in task.widths if bits > 1]
    rounded = dict(compensate(task.weight, layer, shrunk(known), wide, task.grids))
    for bits in set(task.widths) - set(rounded):
        rounded[bits] = quantize_balanced(task.weight, layer.axis, bits, task.grids)
    shifts = {b: bias_shift(task.weight, some.dequantize(), layer, moments) for b, some in rounded.items()}
    return Fitted(layer, rounded, shifts if layer.bias is not None else {})
