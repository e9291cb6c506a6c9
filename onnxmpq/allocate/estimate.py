"""estimate: how long the rest will take, said beforehand where it is worth waiting for."""

from __future__ import annotations

import time

import numpy as np

from onnxmpq.allocate.choose import plans_tried
from onnxmpq.context.setting import Setting
from onnxmpq.requantize.sequential import is_fitted
from onnxmpq.requantize.stage import requantizing_pays
from onnxmpq.rounding.moments import has_moments, is_known, windows_of
from onnxmpq.rounding.stage import factoring, work, workers
from onnxmpq.sensitivity.methods import CountsEvaluations, counts_evaluations, is_saved
from onnxmpq.sensitivity.methods.measured import Measured
from onnxmpq.values.effort import spoken

_WORTH_SAYING = 10.0  # seconds
_PRODUCTS_A_SECOND = 1.2e8  # of rounding, a second and process
_REQUANTIZED = 4  # requantizing a layer takes as long as rounding it at so many widths, by one process
_SOLVED = 3  # and factors its matrix as often


def announce(setting: Setting) -> None:
    """Note the estimate where it is long; how long a method takes is known of those that evaluate plans."""
    seconds = estimate(setting)
    if seconds >= _WORTH_SAYING:
        method = setting.request.method
        known = (
            setting.forced or isinstance(method, Measured) or is_saved(method) or counts_evaluations(method)
        )
        besides = "" if known else " besides what the method takes"
        setting.stages.note(
            f"about {spoken(seconds)} ahead at --effort {setting.request.effort.name}{besides}"
        )


def estimate(setting: Setting) -> float:
    """Seconds that measuring, rounding and requantizing take."""
    forwards = forwards_ahead(setting)
    return (forwards * seconds_a_sample(setting) if forwards else 0.0) + rounding_seconds(setting)


def forwards_ahead(setting: Setting) -> float:
    """Forward runs of one sample that the method, calibration and requantizing take together."""
    effort, samples = setting.request.effort, setting.splits.rounding.count
    method, forwards = setting.request.method, 0.0
    if setting.forced is None and isinstance(method, Measured):
        forwards = effort.measuring(samples, _widths_measured(setting, method))
    elif setting.forced is None and counts_evaluations(method):
        forwards = forwards_evaluated(setting, method)
    if setting.request.rounding != "nearest":
        forwards += effort.learning(samples, plans_requantized(setting), setting.augmentations.count)
    return forwards


def forwards_evaluated(setting: Setting, method: CountsEvaluations) -> float:
    """Those of a method that evaluates changes of layers: what lies before a changed layer does not run again."""
    layers = setting.prepared.layers
    counts = method.evaluations(layers, setting.options)
    behind = np.cumsum([layer.macs for layer in reversed(layers)])[::-1]
    shares = behind / behind[0] if behind[0] else np.ones(len(layers))
    runs = sum(counts.get(la.name, 0.0) * share for la, share in zip(layers, shares, strict=True))
    samples = setting.splits.sensitivity.count
    return float(runs) * min(method.images or samples, samples)


def _widths_measured(setting: Setting, measured: Measured) -> int:
    widths = (
        sorted({o.weight_bits for o in some if o.is_quantized})
        for some in setting.options.values()
        if len(some) > 1
    )
    return sum(len(measured.narrow(bits)) for bits in widths if bits)


def rounding_seconds(setting: Setting) -> float:
    """What rounding at all widths and requantizing take of a processor, whatever a forward takes."""
    if setting.request.rounding == "nearest":
        return 0.0
    widths = {n: [o.weight_bits for o in some if o.is_quantized] for n, some in setting.choices.items()}
    data = setting.splits.rounding
    known = [
        la
        for la in setting.prepared.layers
        if has_moments(la) and widths[la.name] and is_known(la, windows_of(la, data.count), data)
    ]
    products = work(known, widths) + factoring(known)
    again = [la for la in known if any(is_fitted(la, bits) for bits in widths[la.name])]
    turn = _REQUANTIZED * work(again, {la.name: widths[la.name][:1] for la in again}) + _SOLVED * factoring(
        again
    )
    turns = (1 + setting.request.effort.tries) * plans_requantized(setting)
    return (products / workers(products) + turns * turn) / _PRODUCTS_A_SECOND


def plans_requantized(setting: Setting) -> int:
    """How many plans are; 0 where that does not pay. A budget on loss judges plans as they would ship."""
    if not requantizing_pays(setting, setting.choices):
        return 0
    return 1 + setting.request.limits_loss * plans_tried(setting.prepared.layers, setting.choices)


def seconds_a_sample(setting: Setting) -> float:
    """Of one forward in a full batch, once warm."""
    batch = next(iter(setting.splits.rounding.batches(setting.prepared.batch_size)))
    setting.reference.run(batch.feeds)
    start = time.perf_counter()
    setting.reference.run(batch.feeds)
    return (time.perf_counter() - start) / batch.count
