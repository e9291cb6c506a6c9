"""forecast: how much work each stage that takes long is, before it begins.

All of it is runs of the network, second moments and rounding, which are products of matrices; so it is counted in forward
runs of one sample, a product being a share of the network's own. How long one takes, the stages that have run tell
(`onnxmpq.present.pace`): only what they are to each other counts here.
"""

from __future__ import annotations

from onnxmpq.context.setting import Setting
from onnxmpq.request import Request
from onnxmpq.rounding.moments import enough, has_moments, map_windows
from onnxmpq.rounding.rows import block_columns, block_count, columns
from onnxmpq.rounding.stage import code_widths, work
from onnxmpq.search.stage import is_searched
from onnxmpq.sensitivity.methods.measured import Measured, changed_samples
from onnxmpq.sensitivity.stage import asked_options
from onnxmpq.values.effort import FASTEST
from onnxmpq.values.layer import Layer

_ROUNDING = 6  # products a weight and column, of GPTQ at a few scales and of coordinate descent
_BOTH, _PLANS = 2, 3  # networks side by side; the plan and its rivals
_PAIRS = 2  # times a forward run: a network with Q/DQ pairs, which is simulated in float
_PIECEWISE = 2  # times as long as in one go, since the networks run layer by layer
_GRADIENTS = 3  # forward runs in a forward and a backward one
_TIMED = 350  # samples of the runs by which files are timed, alone and in batches
_TRIED = 1000  # samples of the runs by which integers and float are compared
_JUDGED = 4  # files whose losses are measured behind requantizing


def expected_work(setting: Setting) -> dict[str, float]:
    """The stages from calibration on, each in forward runs of a sample; those that take no time are left out."""
    splits, request = setting.splits, setting.request
    samples, fits = splits.rounding.count, request.quantizers.rounding != "nearest"
    judged = splits.judging.count
    found = {"calibrate": float(samples) if setting.quantized.placement.tensors else 0.0}
    found["round"] = _rounding(setting) if fits else 0.0
    if setting.forced is None:
        found["sensitivity"] = _sensitivity(setting)
    if request.chooses_activations and not request.is_timed:
        found["activations"] = float(_TRIED)
    if is_searched(setting):
        found["search"] = float(_PLANS * _PAIRS * min(request.search.effort.judge, samples))
    if fits:
        found["requantize"] = _requantizing(setting) + _JUDGED * judged
    if request.run.verify:
        found["verify"] = float(_BOTH * (judged + _TIMED))
    return {name: much for name, much in found.items() if much > 0}


def sooner(request: Request) -> str:
    """What the user may type for a compile that ends sooner."""
    return "fewer --samples" if request.search.effort.name == FASTEST else f"--effort {FASTEST}"


def _rounding(setting: Setting) -> float:
    widths = code_widths(setting)
    layers = [layer for layer in _fitted(setting) if widths[layer.name]]
    seen = setting.splits.rounding.count
    return _runs(setting, seen) + _share(setting, _moments(layers, seen) + _ROUNDING * work(layers, widths))


def _requantizing(setting: Setting) -> float:
    layers = [layer for layer in _fitted(setting) if block_count(layer) == 1]
    seen = min(setting.request.search.effort.requantize, setting.splits.rounding.count)
    rows = sum(layer.params * enough(layer) for layer in layers)
    each = dict.fromkeys((layer.name for layer in layers), (1,))
    products = _moments(layers, seen) + rows + _ROUNDING * work(layers, each)
    return _PIECEWISE * (_runs(setting, (1 + _PAIRS) * seen) + _share(setting, products))


def _sensitivity(setting: Setting) -> float:
    samples, method = setting.splits.sensitivity.count, setting.request.search.method
    if not isinstance(method, Measured):
        return float(_GRADIENTS * samples)
    widths = [sorted({o.weight_bits for o in some}) for some in asked_options(setting).values()]
    changes = sum(len(method.narrow(some)) for some in widths if some)
    return changes * changed_samples(samples, changes) / 2


def _fitted(setting: Setting) -> list[Layer]:
    return [layer for layer in setting.prepared.layers if has_moments(layer)]


def _moments(layers: list[Layer], samples: int) -> int:
    """Products of the second moments of so many samples."""
    return sum(
        layer.group * block_count(layer) * block_columns(layer) * columns(layer) * _windows(layer, samples)
        for layer in layers
    )


def _windows(layer: Layer, samples: int) -> int:
    return min(map_windows(layer, samples), enough(layer))


def _runs(setting: Setting, samples: int) -> float:
    return float(samples * setting.augmentations.count)


def _share(setting: Setting, products: float) -> float:
    """So many products in forward runs."""
    return products / max(sum(layer.macs for layer in setting.prepared.layers), 1)
