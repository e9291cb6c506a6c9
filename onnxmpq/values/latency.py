"""How long models take: one beside its reference, and each option of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.values.option import Option


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one run of each at `batch` samples: the reference's median, and with it the model's by the median ratio.

    (Where the machine slows down halfway, two medians may say the contrary of the ratio.)
    """

    batch: int
    reference: float
    model: float
    speedup: float  # > 1: the model is faster


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Seconds of every option of every layer, and of the whole fp32 network."""

    seconds: Mapping[str, Mapping[Option, float]]
    fp32: float
