"""The constants that would ship: each layer's weight at each width, rounded and kept, and its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from threadpoolctl import threadpool_limits

from onnxmpq.rounding.compensate import bias_shift, compensate
from onnxmpq.rounding.half_scales import half_bias, half_scales
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.shrink import shrunk
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.values.arrays import Array, Floats
from onnxmpq.values.group import Group
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import HALF_BITS, QUANTIZED_BITS
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, QuantizedWeight

ROUNDINGS = ("compensated", "nearest")


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What it takes to round a layer: its weight (float32, unstacked), the moments, the widths, what the file may hold."""

    layer: Layer
    weight: Floats
    moments: Moments
    widths: Sequence[int]
    grids: Grids


def fitted(task: Task) -> tuple[Layer, list[tuple[QuantizedWeight, Floats | None]]]:
    """The layer, its rounding at each width, and what its bias gains there; None without a bias.

    Compensated from two bits up; one bit so that the errors' sums cancel.
    """
    with threadpool_limits(limits=1):  # BLAS adds up in another order on more threads
        return task.layer, _fitted(task)


def _fitted(task: Task) -> list[tuple[QuantizedWeight, Floats | None]]:
    layer, moments = task.layer.unstacked, task.moments
    known = moments if layer.bias is None else moments.centred()
    wide = [bits for bits in task.widths if bits > 1]
    rounded = dict(compensate(task.weight, layer, shrunk(known), wide, task.grids))
    for bits in set(task.widths) - set(rounded):
        rounded[bits] = quantize_balanced(task.weight, layer.axis, bits, task.grids)
    if layer.bias is None:
        return [(_restacked(some, task.layer), None) for some in rounded.values()]
    return [(some, bias_shift(task.weight, some.dequantize(), layer, moments)) for some in rounded.values()]


@dataclass
class Candidates:
    """Rounded weights by layer and width; memory is a byte a weight and width.

    With rounding "compensated", a layer that was given its inputs' moments is rounded against them and its bias
    takes up the mean error; one without (no data reach it) is rounded so that its errors' sums cancel, or to the nearest
    where it is summed over nothing. `grids` are what the file may hold.
    """

    model: onnx.ModelProto
    rounding: str = ROUNDINGS[0]
    grids: Grids = EVERY_GRID
    _made: dict[tuple[str, int], QuantizedWeight] = field(default_factory=dict)
    _shifts: dict[tuple[str, int], Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._initializers: Mapping[str, onnx.TensorProto] = {i.name: i for i in self.model.graph.initializer}

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def copy(self) -> Candidates:
        """The same roundings, to change without losing these."""
        return replace(self, _made=dict(self._made), _shifts=dict(self._shifts))

    def task(self, layer: Layer, moments: Moments, widths: Sequence[int]) -> Task:
        """What it takes to round a layer at these widths against the moments of its inputs."""
        weight = self._single(layer).reshape(layer.unstacked.shape)
        return Task(layer, weight, moments, widths, self.grids)

    def replace(self, layer: Layer, rounded: QuantizedWeight, shift: Floats | None) -> None:
        """Let a rounding and what its bias gains stand for the layer at that width."""
        self._made[layer.name, rounded.bits] = _held(layer, rounded)
        if shift is not None:
            self._shifts[layer.name, rounded.bits] = shift

    def of_groups(self, model: onnx.ModelProto, groups: Sequence[Group]) -> Candidates:
        """The same for a model in which these groups have constants of their own: every channel keeps its codes."""
        made, shifts = dict(self._made), dict(self._shifts)
        for group in groups:
            channels = list(group.channels)
            for (name, bits), whole in self._made.items():
                if name == group.layer.name:
                    codes = np.ascontiguousarray(whole.codes.take(channels, whole.axis))
                    made[group.name, bits] = replace(whole, codes=codes, scale=whole.scale[channels])
            for (name, bits), shift in self._shifts.items():
                if name == group.layer.name:
                    shifts[group.name, bits] = shift[channels]
        return Candidates(model, self.rounding, self.grids, made, shifts)

    def quantized(self, layer: Layer, bits: int) -> QuantizedWeight:
        """The codes and scales of a layer at a width of 1 to 8 bits."""
        key = (layer.name, bits)
        if key not in self._made:
            self._made[key] = _held(layer, self._rounded(layer, bits))
        return self._made[key]

    def _rounded(self, layer: Layer, bits: int) -> QuantizedWeight:
        """The weight rounded without data."""
        flat = layer.unstacked
        is_nearest = self.rounding == "nearest" or not layer.layout.columns
        rounder = quantize if is_nearest else quantize_balanced
        weight = self._single(layer).reshape(flat.shape)
        return _restacked(rounder(weight, flat.axis, bits, self.grids), layer)

    def bias(self, layer: Layer, bits: int) -> Array | None:
        """The layer's own bias at a width, in the graph's dtype; None where it has none."""
        if layer.bias is None:
            return None
        bias = self._constant(layer.bias)
        shift = self._shifts.get((layer.name, bits))
        moved = bias if shift is None else (bias + shift).astype(bias.dtype)
        return half_bias(moved) if layer.scale_bytes == 2 and bits in QUANTIZED_BITS else moved

    def constants(self, layer: Layer, bits: int) -> dict[str, Array]:
        """What the layer computes with at a width, by name: dequantized weight and bias, in the graph's dtype."""
        weight = self._constant(layer.weight)
        if bits in QUANTIZED_BITS:
            weight = self.quantized(layer, bits).dequantize().astype(weight.dtype)
        elif bits == HALF_BITS:
            weight = weight.astype(np.float16).astype(weight.dtype)
        found, bias = {layer.weight: weight}, self.bias(layer, bits)
        return found if bias is None or layer.bias is None else {**found, layer.bias: bias}

    def under(self, layers: Sequence[Layer], plan: Plan) -> dict[str, Array]:
        """What all layers that may be quantized compute with under a plan, by name."""
        found: dict[str, Array] = {}
        for layer in layers:
            if layer.reason is None:
                found |= self.constants(layer, plan[layer.name].weight_bits)
        return found

    def _single(self, layer: Layer) -> Floats:
        return self._constant(layer.weight).astype(np.float32)

    def _constant(self, name: str) -> Array:
        values: Array = numpy_helper.to_array(self._initializers[name])
        return values


def _restacked(rounded: QuantizedWeight, layer: Layer) -> QuantizedWeight:
    """The rounding of the unstacked weight in the layer's own shape."""
    if not layer.layout.stacked:
        return rounded
    scale = rounded.scale.reshape(layer.scale_shape)
    return replace(rounded, codes=rounded.codes.reshape(layer.shape), scale=scale, axis=layer.axis)


def _held(layer: Layer, rounded: QuantizedWeight) -> QuantizedWeight:
    """The rounding with its scales as the file holds them."""
    return replace(rounded, scale=half_scales(rounded.scale)) if layer.scale_bytes == 2 else rounded
