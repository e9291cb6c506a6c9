"""What one scale for a whole tensor leaves of its channels: an outlier beside others leaves these nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnxmpq.data import Dataset
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.arrays import Array

_SAMPLES = 16
# dB. In ResNets, MobileNetV2 and SqueezeNet no tensor's median channel has less than 27; beside an outlier it has less than 9.
LEAST_SQNR = 15.0
_A_BIT = 20 * np.log10(2)  # dB: what narrower codes leave is less, whatever the channels


def ruined(
    runtime: Runtime, model: onnx.ModelProto, ranges: Mapping[str, ActivationRange], data: Dataset, seed: int
) -> dict[str, float]:
    """The tensors of which half the channels keep less than 15 dB (at 8 bits) of what varies in them, with that median.

    Channels lie along the axis, 1 or the last, that they differ most on; those that do not vary are left out.
    """
    moments = _moments(runtime, model, ranges, data, seed)
    medians = {name: _median(axes, ranges[name].scale) for name, axes in moments.items()}
    return {name: found for name, found in medians.items() if found < _least(ranges[name].codes.bits)}


def _least(bits: int) -> float:
    return float(LEAST_SQNR - _A_BIT * max(8 - bits, 0))


class _Moments:
    """Sums by channel along one axis."""

    def __init__(self, axis: int) -> None:
        self._axis, self._sums = axis, np.zeros((2, 1))
        self._count = 0.0

    def add(self, values: Array) -> bool:
        """False where the channels are not those of the runs before: a size that depends on the data."""
        others = tuple(a for a in range(values.ndim) if a != self._axis)
        known = values.astype(np.float64)
        sums = np.stack([known.sum(axis=others), np.square(known).sum(axis=others)])
        if self._count and sums.shape != self._sums.shape:
            return False
        self._sums, self._count = self._sums + sums, self._count + values.size / values.shape[self._axis]
        return True

    def variances(self) -> Array:
        mean, square = self._sums / self._count
        found: Array = np.maximum(square - np.square(mean), 0.0)
        return found


def _moments(
    runtime: Runtime, model: onnx.ModelProto, ranges: Mapping[str, ActivationRange], data: Dataset, seed: int
) -> dict[str, list[_Moments]]:
    session = runtime.session(_exposing(model, ranges), spin=False)
    known = [name for name in ranges if name in session.outputs]
    found: dict[str, list[_Moments]] = {}
    for batch in data.some(_SAMPLES, seed).batches(1):
        for name, values in session.run(batch.feeds, known).items():
            if values.ndim < 2 or not values.size:
                continue
            axes = found.setdefault(name, [_Moments(axis) for axis in sorted({1, values.ndim - 1})])
            found[name] = [moments for moments in axes if moments.add(values)]
    return found


def _exposing(model: onnx.ModelProto, names: Mapping[str, object]) -> onnx.ModelProto:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    known = {output.name for output in model.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n in made and n not in known)
    return tapped


def _median(axes: list[_Moments], step: float) -> float:
    """In dB, of the axis on which it is least."""
    return min((_median_sqnr(moments.variances(), step) for moments in axes), default=np.inf)


def _median_sqnr(variances: Array, step: float) -> float:
    varying = variances[variances > variances.max(initial=0.0) * np.finfo(np.float32).eps ** 2]
    if not varying.size:
        return np.inf
    return float(np.median(10 * np.log10(varying / (step * step / 12))))
