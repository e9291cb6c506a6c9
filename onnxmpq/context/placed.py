"""A model's layers, what each may be given, and where activations are quantized."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmpq.context.prepared import Prepared
from onnxmpq.values.option import Options
from onnxmpq.values.placement import Placement


@dataclass(frozen=True)
class Placed:
    """A model's layers with the options each may be given, and where activations are quantized for these."""

    prepared: Prepared
    placement: Placement
    options: Options
