"""What one scale for a whole tensor leaves of its channels: an outlier beside others leaves these nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxmpq.calibrate.measure_ranges import tapped
from onnxmpq.data import Dataset
from onnxmpq.metrics.decibels import median_of_channels
from onnxmpq.metrics.metric import Sums
from onnxmpq.passes.expose.tap_channels import TapChannels, channels_name
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.arrays import Shape

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

    Channels lie along the axis, 1 or the last, that they differ most on; those that do not vary are left out. Of a tensor
    that only multiplies (a gate) all that is in it counts, not what varies: a product is off by as large a share. `shapes`
    are those of the graph's tensors in a run.
    """
    names = [name for name in ranges if len(shapes.get(name, ())) > 1 and 0 not in shapes[name]]
    if not names:
        return {}
    axes = {name: sorted({1, len(shapes[name]) - 1}) for name in names}
    taps = TapChannels(axes, {name: len(shapes[name]) for name in names})
    session = runtime.session(tapped(model, taps), spin=False)
    found = _along(session, axes, shapes, data.some(_SAMPLES, seed))
    factors = _only_factors(model)
    medians = {
        name: min(
            median_of_channels(m.powers(varying=name not in factors), ranges[name].scale ** 2 / 12)
            for m in moments
        )
        for name, moments in found.items()
    }
    return {name: least for name, least in medians.items() if least < _least(ranges[name].codes.bits)}


def _only_factors(model: onnx.ModelProto) -> set[str]:
    """The tensors that nothing but products reads."""
    factors: set[str] = set()
    others = {output.name for output in model.graph.output}
    for node in model.graph.node:
        (factors if node.op_type == "Mul" else others).update(node.input)
    return factors - others


def _least(bits: int) -> float:
    return float(LEAST_SQNR - _A_BIT * max(8 - bits, 0))


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

    def powers(self, *, varying: bool) -> Sums:
        """Of each channel the variance, or where not only what varies counts the mean square."""
        mean, square = self._sums / max(self._count, 1)
        found: Sums = np.maximum(square - np.square(mean), 0.0) if varying else square
        return found


def _along(
    session: Session, axes: Mapping[str, Sequence[int]], shapes: Mapping[str, Shape], data: Dataset
) -> dict[str, list[_Moments]]:
    """By tensor, along each of its axes; only sums leave the run, however large the tensors."""
    found = {(name, axis): _Moments() for name, some in axes.items() for axis in some}
    taps = [channels_name(name, axis, power) for name, axis in found for power in (1, 2)]
    for batch in data.batches(1):
        sums = session.run(batch.feeds, taps)
        for (name, axis), moments in found.items():
            both = np.stack([sums[channels_name(name, axis, power)] for power in (1, 2)]).astype(np.float64)
            moments.add(both, math.prod(shapes[name]) / shapes[name][axis] * batch.count)
    return {name: [found[name, axis] for axis in some] for name, some in axes.items()}
