"""estimate: how long the rest will take, said beforehand where it is worth waiting for."""

from __future__ import annotations

import time
from itertools import chain

from onnxmpq.allocation.choose import plans_tried
from onnxmpq.effort import spoken
from onnxmpq.sensitivity import METHODS
from onnxmpq.sensitivity.measured import measured
from onnxmpq.stages.round import work, workers
from onnxmpq.stages.setting import Setting
from onnxmpq.stages.settle import settling_pays

_WORTH_SAYING = 10.0  # seconds
_PRODUCTS = 1.2e8  # of rounding, a second and process
_SETTLED = 4  # settling a layer takes as long as rounding it at so many widths, by one process


def announce(setting: Setting) -> None:
    """Note the estimate where it is long, but for methods that know themselves what they take."""
    if setting.forced is None and setting.request.method is not METHODS["measured"]:
        return
    seconds = estimate(setting, 0.0 if setting.forced else seconds_a_sample(setting))
    if seconds >= _WORTH_SAYING:
        setting.stages.note(f"about {spoken(seconds)} ahead at --effort {setting.request.effort.name}")


def estimate(setting: Setting, a_sample: float) -> float:
    """Seconds that rounding takes, and measuring if one forward of a sample takes `a_sample`."""
    seconds = rounding_seconds(setting)
    if setting.forced is None:
        widths = (
            sorted({o.weight_bits for o in some if o.is_quantized})
            for some in setting.options.values()
            if len(some) > 1
        )
        count = sum(len(measured.narrow(bits)) for bits in widths if bits)
        effort, samples = setting.request.effort, setting.shares.rounding.count
        seconds += a_sample * effort.forwards(samples, count, plans_settled(setting), setting.views.count)
    return seconds


def rounding_seconds(setting: Setting) -> float:
    """What rounding at all widths and settling take of a processor, whatever a forward takes."""
    if setting.request.rounding == "nearest":
        return 0.0
    layers, choices = setting.prepared.layers, setting.choices
    widths = {name: [o.weight_bits for o in some if o.is_quantized] for name, some in choices.items()}
    settles = settling_pays(setting, chain(*choices.values()))
    turns = 1 + setting.request.effort.tries
    again = {name: turns * _SETTLED * bits[:1] if settles else [] for name, bits in widths.items()}
    products = work(layers, widths)
    return (products / workers(products) + plans_settled(setting) * work(layers, again)) / _PRODUCTS


def plans_settled(setting: Setting) -> int:
    """A budget on loss judges plans as they would ship."""
    return 1 + setting.request.limits_loss * plans_tried(setting.prepared.layers, setting.choices)


def seconds_a_sample(setting: Setting) -> float:
    """Of one forward in a full batch, once warm."""
    batch = next(iter(setting.shares.rounding.batches(setting.prepared.batch_size)))
    setting.reference.run(batch.feeds)
    start = time.perf_counter()
    setting.reference.run(batch.feeds)
    return (time.perf_counter() - start) / batch.count
