"""`--save-plan` and `--plan`: what every layer is given, as JSON that people read and edit.

    {"onnxmpq plan": 1, "activations": "int8", "layers": {"stem": "7/8", "blocks.0": "4/8", "head": "8/fp32", "embeddings": "fp32"}}

`activations` are those of the integer layers, as `--activations` has them; a layer's words are those of `--keep`.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxmpq.errors import DataError, MissingFileError, OptionError, nearest
from onnxmpq.values.keep import Keep
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

_KIND, _VERSION = "onnxmpq plan", 1


@dataclass(frozen=True, slots=True)
class PlanFile:
    """`layers` are the words of each, by name."""

    activations: str
    layers: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan, activations: str) -> PlanFile:
        """A plan as it was found, whose integer layers have such activations."""
        floats = "" if activations == "fp32" else "/fp32"
        return cls(activations, {name: _words(option, floats) for name, option in plan.options.items()})

    @classmethod
    def read(cls, path: Path) -> PlanFile:
        """The plan in a file. Raises MissingFileError, or DataError for what is no plan."""
        if not path.is_file():
            raise MissingFileError(f"--plan {path} does not exist; --save-plan writes one")
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"--plan {path} is no JSON: {error}") from error
        if not isinstance(found, dict) or found.get(_KIND) != _VERSION:
            raise DataError(f"--plan {path} is no plan of version {_VERSION}; --save-plan writes one")
        activations, layers = found.get("activations"), found.get("layers")
        if not isinstance(activations, str) or not isinstance(layers, dict) or not layers:
            raise DataError(f"--plan {path} lacks 'activations', a word, or 'layers', words by their names")
        return cls(activations, {name: str(words) for name, words in layers.items()})

    @property
    def text(self) -> str:
        """As it is written to a file."""
        return (
            json.dumps(
                {_KIND: _VERSION, "activations": self.activations, "layers": {**self.layers}}, indent=2
            )
            + "\n"
        )

    @property
    def keeps(self) -> tuple[Keep, ...]:
        """The same as layers that are kept. Raises OptionError naming the first whose words are none."""
        found = []
        for name, words in self.layers.items():
            try:
                kept = Keep.parse(f"x={words}")
            except OptionError as error:
                raise OptionError(
                    f"the plan gives layer {name!r} {words!r}: {str(error).partition(': ')[2]}"
                ) from error
            found.append(Keep(glob.escape(name), kept.option, kept.computes_float))
        return tuple(found)

    def check(self, layers: Sequence[Layer]) -> None:
        """Raise OptionError naming the first layer that either of plan and model has alone, or that stays as it is."""
        known = {layer.name: layer for layer in layers}
        for keep, (name, words) in zip(self.keeps, self.layers.items(), strict=True):
            if name not in known:
                near = nearest(name, known) or "onnxmpq inspect lists its layers"
                raise OptionError(f"the plan does not fit the model, which has no layer {name!r}; {near}")
            if keep.option.is_quantized and known[name].reason is not None:
                raise OptionError(
                    f"the plan gives layer {name!r} {words!r}, but it stays as it is: {known[name].reason}; write fp32"
                )
        for name, layer in known.items():
            if layer.reason is None and name not in self.layers:
                raise OptionError(
                    f"the plan does not fit the model: it says nothing of layer {name!r}; write a width, or fp32"
                )


def _words(option: Option, floats: str) -> str:
    """An option without what the target decides of it; `floats` stands behind a quantized layer that computes in float."""
    words = str(replace(option, container_bits=None))
    return f"{words}{floats}" if option.is_quantized and option.activation_bits is None else words
