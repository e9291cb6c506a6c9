"""The values that stages exchange and users save: what each width costs or a search went through, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.values.option import Option


@dataclass(frozen=True, slots=True)
class Plan:
    """The option each layer is compiled with, keyed by layer name."""

    options: Mapping[str, Option]

    def __getitem__(self, layer: str) -> Option:
        return self.options[layer]
