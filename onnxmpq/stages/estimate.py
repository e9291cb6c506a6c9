"""estimate: how long the rest will take, said beforehand where it is worth waiting for."""

from __future__ import annotations

import time

from onnxmpq.effort import spoken
from onnxmpq.sensitivity import METHODS
from onnxmpq.stages.setting import Setting

_WORTH_SAYING = 10.0  # seconds


def announce(setting: Setting) -> None:
    """Note the estimate for the default method: others know themselves what they take."""
    if setting.forced is not None or setting.request.method is not METHODS["measured"]:
        return
    seconds = estimate(setting, seconds_a_sample(setting))
    if seconds >= _WORTH_SAYING:
        setting.stages.note(f"about {spoken(seconds)} ahead at --effort {setting.request.effort.name}")


def estimate(setting: Setting, a_sample: float) -> float:
    """Seconds that measuring takes if one forward of a sample takes `a_sample`."""
    counts = [len(choices) for choices in setting.options.values() if len(choices) > 1]
    widths = sum(counts) / max(len(counts), 1)
    effort = setting.request.effort
    return a_sample * effort.forwards(setting.shares.rounding.count, len(counts), widths)


def seconds_a_sample(setting: Setting) -> float:
    """Of one forward in a full batch, once warm."""
    batch = next(iter(setting.shares.rounding.batches(setting.prepared.batch_size)))
    setting.reference.run(batch.feeds)
    start = time.perf_counter()
    setting.reference.run(batch.feeds)
    return (time.perf_counter() - start) / batch.count
