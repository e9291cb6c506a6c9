"""How fast a model is beside its reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one run of each at `batch` samples: the reference's median, and with it the model's by the median ratio.

    (Where the machine slows down halfway, two medians may say the contrary of the ratio.)
    """

    batch: int
    reference: float
    model: float
    speedup: float  # > 1: the model is faster
