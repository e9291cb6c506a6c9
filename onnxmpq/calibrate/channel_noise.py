"""What one scale for a whole tensor leaves of its channels: an outlier beside others leaves these nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmpq.data import Dataset
from onnxmpq.metrics.metric import Sums
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.arrays import Array, Shape

_SAMPLES = 16
# dB. In ResNets, MobileNetV2 and SqueezeNet no tensor's median channel has less than 27; beside an outlier it has less than 9.
LEAST_SQNR = 15.0
_A_BIT = 20 * np.log10(2)  # dB: what narrower codes leave is less, whatever the channels


def ruined(
    runtime: Runtime,
    model: onnx.ModelProto,
    ranges: Mapping[str, ActivationRange],
    shapes: Mapping[str, Shape],
    data: Dataset,
    seed: int,
) -> dict[str, float]:
    """The tensors of which half the channels keep less than 15 dB (at 8 bits) of what varies in them, with that median.

    Channels lie along the axis, 1 or the last, that they differ most on; those that do not vary are left out. `shapes` are
    those of the graph's tensors in a run.
    """
    moments = _moments(runtime, model, ranges, shapes, data, seed)
    medians = {name: _median(axes, ranges[name].scale) for name, axes in moments.items()}
    return {name: found for name, found in medians.items() if found < _least(ranges[name].codes.bits)}


def _least(bits: int) -> float:
    return float(LEAST_SQNR - _A_BIT * max(8 - bits, 0))


@dataclass(frozen=True)
class _Tap:
    """Two outputs that hold the sums of a tensor's values and of their squares by channel along an axis."""

    tensor: str
    axis: int
    total: str
    squares: str


class _Moments:
    """Sums by channel along one axis, over samples."""

    def __init__(self) -> None:
        self._sums: Sums = np.zeros((2, 1))
        self._count = 0.0

    def add(self, sums: Sums, count: float) -> None:
        """Of one sample; where the channels are not those before (a size that the data decide) it begins anew."""
        if self._sums.shape != sums.shape:
            self._sums, self._count = np.zeros_like(sums), 0.0
        self._sums, self._count = self._sums + sums, self._count + count

    def variances(self) -> Sums:
        mean, square = self._sums / max(self._count, 1)
        found: Sums = np.maximum(square - np.square(mean), 0.0)
        return found


def _moments(
    runtime: Runtime,
    model: onnx.ModelProto,
    ranges: Mapping[str, ActivationRange],
    shapes: Mapping[str, Shape],
    data: Dataset,
    seed: int,
) -> dict[str, list[_Moments]]:
    """By tensor, along each axis; only sums leave the run, however large the tensors."""
    names = [name for name in ranges if len(shapes.get(name, ())) > 1 and 0 not in shapes[name]]
    taps = [
        _Tap(n, a, f"{n}/{a}/sum", f"{n}/{a}/squares") for n in names for a in sorted({1, len(shapes[n]) - 1})
    ]
    if not taps:
        return {}
    session = runtime.session(_tapped(model, taps, shapes), spin=False)
    wanted = [name for tap in taps for name in (tap.total, tap.squares)]
    found = {(tap.tensor, tap.axis): _Moments() for tap in taps}
    for batch in data.some(_SAMPLES, seed).batches(1):
        sums = session.run(batch.feeds, wanted)
        for tap in taps:
            both = np.stack([sums[tap.total], sums[tap.squares]]).astype(np.float64)
            found[tap.tensor, tap.axis].add(
                both, math.prod(shapes[tap.tensor]) / shapes[tap.tensor][tap.axis] * batch.count
            )
    return {name: [moments for (tensor, _), moments in found.items() if tensor == name] for name in names}


def _tapped(model: onnx.ModelProto, taps: Sequence[_Tap], shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """The model with the sums alone as outputs (Mul-13, ReduceSum-13)."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    for tap in taps:
        axes = [axis for axis in range(len(shapes[tap.tensor])) if axis != tap.axis]
        others, product = f"{tap.total}/axes", f"{tap.squares}/product"
        tapped.graph.initializer.append(numpy_helper.from_array(np.array(axes), others))
        tapped.graph.node.extend(
            [
                helper.make_node("ReduceSum", [tap.tensor, others], [tap.total], keepdims=0),
                helper.make_node("Mul", [tap.tensor, tap.tensor], [product]),
                helper.make_node("ReduceSum", [product, others], [tap.squares], keepdims=0),
            ]
        )
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (tap.total, tap.squares))
    return tapped


def _median(axes: list[_Moments], step: float) -> float:
    """In dB, of the axis on which it is least."""
    return min((_median_sqnr(moments.variances(), step) for moments in axes), default=np.inf)


def _median_sqnr(variances: Array, step: float) -> float:
    varying = variances[variances > variances.max(initial=0.0) * np.finfo(np.float32).eps ** 2]
    if not varying.size:
        return np.inf
    return float(np.median(10 * np.log10(varying / (step * step / 12))))
