"""calibrate: the range of each tensor that gets a Q/DQ pair, over the calibration data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from onnxmpq.calibrate.channel_noise import ruined
from onnxmpq.calibrate.measure_ranges import calibrate as measure_ranges
from onnxmpq.calibrate.mirror import sees_the_same
from onnxmpq.check.stage import forced_by
from onnxmpq.context.prepared import Activations, Placed, Prepared
from onnxmpq.context.setting import Loaded, Setting
from onnxmpq.context.splits import divide
from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations, width_axis
from onnxmpq.errors import DataError
from onnxmpq.lower.lower_plan import fitted_to_ranges
from onnxmpq.lower.neighbours import layers_around
from onnxmpq.normalize.discover import readers_of
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.clamps import clamped
from onnxmpq.place.stage import in_float, placed
from onnxmpq.values.activation_range import ActivationRange

# Noise excites a network less than what it has learned: on four classifiers the KL of int8 files that saw none of their images is
# 0.55 of what it is with the ranges as they are (geometric mean; 0.70 at three times, docs/synthetic_table.md).
_WIDER = 2.0


def calibrate(loaded: Loaded, found: Placed) -> Setting:
    """Everything that the later stages look at. Raises DataError where a range cannot be had, nor spared."""
    splits = divide(loaded.evidence, loaded.request)
    found, ranges = calibrated(loaded, found, splits.rounding)
    quantized = Activations(found.placement, ranges, loaded.request.target.activations.placement)
    setting = Setting(
        loaded.request, loaded.stages, loaded.runtime, loaded.session, splits,
        fitted_to_ranges(found.prepared, quantized), found.options, quantized,
        augmentations=augmentations_of(splits.rounding, found.prepared, loaded), workers=loaded.workers,
    )  # fmt: skip
    return forced_by(setting)


def calibrated(loaded: Loaded, found: Placed, data: Dataset) -> tuple[Placed, dict[str, ActivationRange]]:
    """The ranges, and the options that are left: a layer whose input is empty in all samples computes in float."""
    placement = found.placement
    if not placement.tensors:
        return found, {}
    ranges = measure_ranges(
        loaded.runtime, found.prepared.model, placement, data, loaded.request.calibrated_by,
        codes=loaded.request.codes, progress=loaded.stages.observer.progress,
    )  # fmt: skip
    if data.synthetic:
        ranges = widened(ranges, clamped(import_graph(found.prepared.model)))
    unseen = set(placement.tensors) - ranges.keys()
    if unseen:
        return calibrated(loaded, without(found, unseen, loaded), data)
    return spared(loaded, found, ranges, data)


def widened(ranges: Mapping[str, ActivationRange], bounded: Collection[str]) -> dict[str, ActivationRange]:
    """Ranges that noise gave, for what the network's own data will: all but the `bounded` ones are wider."""
    return {
        name: found if name in bounded else replace(found, scale=_WIDER * found.scale)
        for name, found in ranges.items()
    }


def spared(
    loaded: Loaded, found: Placed, ranges: dict[str, ActivationRange], data: Dataset
) -> tuple[Placed, dict[str, ActivationRange]]:
    """The same with the layers in float that make or read a tensor of which one scale leaves nothing."""
    if data.synthetic:
        return found, ranges
    shapes = {name: traced.shape for name, traced in found.prepared.traced.items()}
    lost = ruined(loaded.runtime, found.prepared.model, ranges, shapes, data, loaded.request.search.seed)
    around = layers_around(found.prepared, found.placement, lost) & set(found.placement.integer_layers)
    if not around:
        return found, ranges
    worst = min(lost, key=lambda name: lost[name])
    bits = loaded.request.codes.bits
    loaded.stages.note(
        f"one {bits}-bit scale leaves nothing of half the channels of {len(lost)} tensors (of {worst} {lost[worst]:.0f} dB), beside "
        f"larger ones: {', '.join(sorted(around))} compute in float"
    )
    fewer = {name: in_float(c) if name in around else c for name, c in found.options.items()}
    less = placed(found.prepared, fewer, loaded.request.target)
    wanted = (*less.placement.tensors, *less.placement.spare)
    reasons = dict.fromkeys(
        around, f"one {bits}-bit scale leaves nothing of half the channels of what it reads or makes"
    )
    placement = replace(less.placement, float_layers={**less.placement.float_layers, **reasons})
    return replace(less, placement=placement), {name: ranges[name] for name in wanted}


def without(found: Placed, unseen: Collection[str], loaded: Loaded) -> Placed:
    """The same with the layers in float that read tensors which no sample reaches, or lie around them where none does."""
    integer = set(found.placement.integer_layers)
    blind = (
        readers_of(import_graph(found.prepared.model), found.prepared.layers, unseen) & integer
        or layers_around(found.prepared, found.placement, unseen) & integer
    )
    if not blind:
        raise DataError(
            f"tensor {min(unseen)!r} is empty in all calibration samples: give others, or use --activations fp32"
        )
    note = loaded.stages.note
    note(f"no calibration sample reaches {', '.join(sorted(blind))}: activations there stay in float")
    fewer = {name: in_float(c) if name in blind else c for name, c in found.options.items()}
    return placed(found.prepared, fewer, loaded.request.target, note)


def augmentations_of(data: Dataset, prepared: Prepared, loaded: Loaded) -> Augmentations:
    """What samples are rounded against: their mirror images, too, if the effort is for it and the network."""
    request = loaded.request
    if not request.search.effort.mirrors or request.quantizers.rounding != "compensated" or data.synthetic:
        return NO_AUGMENTATION
    axis = width_axis([np.shape(values) for values in loaded.evidence.sample.values()])
    size, seed = prepared.batch_size, request.search.seed
    if axis is None or not sees_the_same(loaded.session, prepared.metric, data, axis, size, seed):
        return NO_AUGMENTATION
    loaded.stages.note("mirror images are the same to the network: weights are rounded against them, too")
    return Augmentations(axis)
