"""The two values that stages exchange and users save: what each width costs, and which was chosen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxmpq.errors import DataError
from onnxmpq.spec import FLOAT_BITS, HALF_BITS, Option

_OPTION = re.compile(r"(?P<weight>[1-8]|fp16|fp32)(?:in(?P<container>[248]))?(?:/(?P<activation>8|fp32))?")


@dataclass(frozen=True, slots=True)
class CostTable:
    """Expected loss of function of each option of each layer, with all other layers in full precision.

    `costs` maps layer name -> option -> cost >= 0 in units of `metric`; a layer's options are the only ones
    that it may be given. `method` and `samples` say where the numbers come from.
    """

    costs: Mapping[str, Mapping[Option, float]]
    metric: str
    method: str
    samples: int

    def __post_init__(self) -> None:
        for layer, options in self.costs.items():
            if not options:
                raise DataError(f"the cost table has no option for layer {layer!r}")
            for option, cost in options.items():
                if not math.isfinite(cost) or cost < 0:
                    raise DataError(
                        f"the cost of layer {layer!r} at {option} is {cost}; a cost is finite and not negative"
                    )

    def to_json(self) -> str:
        costs = {name: {str(o): c for o, c in options.items()} for name, options in self.costs.items()}
        fields = {"metric": self.metric, "method": self.method, "samples": self.samples, "costs": costs}
        return json.dumps(fields, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Read `to_json`'s text. Raises DataError when it is not a cost table."""
        fields = _read(text, "cost table", {"metric", "method", "samples", "costs"})
        costs = {
            name: {parse_option(o): float(c) for o, c in options.items()}
            for name, options in fields["costs"].items()
        }
        return cls(costs, fields["metric"], fields["method"], int(fields["samples"]))


@dataclass(frozen=True, slots=True)
class Plan:
    """The option each layer is compiled with, keyed by layer name."""

    options: Mapping[str, Option]

    def __getitem__(self, layer: str) -> Option:
        return self.options[layer]

    def to_json(self) -> str:
        return json.dumps({"plan": {name: str(option) for name, option in self.options.items()}}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read `to_json`'s text. Raises DataError when it is not a plan."""
        fields = _read(text, "plan", {"plan"})
        return cls({name: parse_option(option) for name, option in fields["plan"].items()})


def parse_option(text: str) -> Option:
    """The option that prints as `text`: `4`, `4/8`, `4in8/8` (4-bit codes in bytes), `fp16`, `8/fp32`.

    Raises DataError for anything else.
    """
    match = _OPTION.fullmatch(text)
    container = int(match["container"] or 0) if match else 0
    names = {"fp32": FLOAT_BITS, "fp16": HALF_BITS}
    weight = names.get(match["weight"]) or int(match["weight"]) if match else 0
    if match is None or (container and weight >= container):
        raise DataError(
            f"{text!r} is not a width; write 1 to 8, fp16 or fp32, with /8 or /fp32 behind it for activations"
        )
    return Option(weight, 8 if match["activation"] == "8" else None, container or None)


def _read(text: str, what: str, keys: set[str]) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"the {what} is not JSON: {error}") from error
    if not isinstance(fields, dict) or not keys <= fields.keys():
        raise DataError(f"the file is not a {what}: it must hold {', '.join(sorted(keys))}")
    return fields
