"""What a sensitivity method finds: what each option costs, or a way through the plans."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from onnxmpq.errors import DataError
from onnxmpq.values.group import Groups
from onnxmpq.values.option import Option, parse_option
from onnxmpq.values.plan import Plan

UNMEASURED = "none: one plan only"  # the method of a table of costs where nothing was measured


_TYPES: Mapping[str, type] = {"metric": str, "method": str, "samples": int, "evaluations": int}  # in files


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
    evaluations: int = 0  # runs over the samples: of a changed network, or with gradients or features

    def __post_init__(self) -> None:
        for layer, options in self.costs.items():
            if not options:
                raise DataError(f"the cost table has no option for layer {layer!r}")
            for option, cost in options.items():
                if not math.isfinite(cost) or cost < 0:
                    raise DataError(
                        f"the cost of layer {layer!r} at {option} is {cost}; a cost is finite and not negative"
                    )

    def to_json(self, **more: str) -> str:
        """The table and `more` fields, which `from_json` leaves alone."""
        costs = {name: {str(o): c for o, c in options.items()} for name, options in self.costs.items()}
        return json.dumps({**_origin(self), "costs": costs, **more}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Read `to_json`'s text. Raises DataError when it is not a cost table."""
        fields = _read(text, "cost table", {"metric", "method", "samples", "costs"})
        costs = {
            name: {parse_option(o): float(c) for o, c in options.items()}
            for name, options in fields["costs"].items()
        }
        return cls(
            costs, fields["metric"], fields["method"], int(fields["samples"]), fields.get("evaluations", 0)
        )


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A search's way through the plans, widest first: what a method gives that decides in an order.

    Every plan is over the same layers, and none stores more than the one before it. `losses[i]` is the loss of
    `plans[i]` as it was measured on the way, in units of `metric`; None where it was not. The allocation takes
    the first plan that meets every budget. A layer in `groups` is decided group by group of its channels: the
    plans name the i-th one as `part_name(layer, i)` does, and not the layer.
    """

    plans: tuple[Plan, ...]
    losses: tuple[float | None, ...]
    metric: str
    method: str
    samples: int
    evaluations: int = 0  # runs over the samples: of a changed network, or with gradients or features
    groups: Groups = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.plans or len(self.plans) != len(self.losses):
            raise DataError(
                f"the path has {len(self.plans)} plans and {len(self.losses)} losses; it needs a plan, and a loss for each"
            )
        if any(plan.options.keys() != self.plans[0].options.keys() for plan in self.plans):
            raise DataError("the plans of a path differ in their layers; each plan decides all of them")

    def to_json(self, **more: str) -> str:
        """The first plan, what each of the others changes, and `more` fields, which `from_json` leaves alone."""
        words = [{name: str(option) for name, option in plan.options.items()} for plan in self.plans]
        steps = [{n: o for n, o in after.items() if o != before[n]} for before, after in pairwise(words)]
        path = {"start": words[0], "steps": steps, "losses": self.losses, "groups": self.groups}
        return json.dumps({**_origin(self), **path, **more}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Trajectory:
        """Read `to_json`'s text. Raises DataError when it is not a path of plans."""
        fields = _read(text, "path of plans", {"metric", "method", "samples", "start", "steps", "losses"})
        words = accumulate(fields["steps"], lambda before, step: {**before, **step}, initial=fields["start"])
        plans = tuple(Plan({n: parse_option(o) for n, o in options.items()}) for options in words)
        evaluations = fields.get("evaluations", 0)
        return cls(
            plans, tuple(fields["losses"]), fields["metric"], fields["method"], int(fields["samples"]), evaluations,
            _groups(fields),
        )  # fmt: skip


Sensitivity = CostTable | Trajectory  # what a method finds out


def _groups(fields: Mapping[str, Any]) -> Groups:
    found: dict[str, list[list[int]]] = {}
    for unit in fields.get("layers", ()):  # in files of older versions
        if unit["part_of"] is not None:
            found.setdefault(unit["part_of"], []).append(unit["part"])
    groups = fields.get("groups", found)
    return {layer: tuple(tuple(map(int, some)) for some in own) for layer, own in groups.items()}


def _origin(found: CostTable | Trajectory) -> dict[str, Any]:
    return {key: getattr(found, key) for key in ("metric", "method", "samples", "evaluations")}


def _read(text: str, what: str, keys: set[str]) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"the {what} is not JSON: {error}") from error
    if not isinstance(fields, dict) or not keys <= fields.keys():
        raise DataError(f"the file is not a {what}: it must hold {', '.join(sorted(keys))}")
    for name, kind in _TYPES.items():
        if not isinstance(fields.get(name, kind()), kind):
            raise DataError(f"the {what} has {name} {fields[name]!r}; wanted a {kind.__name__}")
    return fields
