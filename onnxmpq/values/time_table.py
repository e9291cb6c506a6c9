"""What layers take to run, by option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.values.option import Option


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Seconds of every option of every layer, and of the whole fp32 network."""

    seconds: Mapping[str, Mapping[Option, float]]
    fp32: float
