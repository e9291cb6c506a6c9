"""What a method may answer: costs of all options of all layers that have a choice, or a path that only narrows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxmpq.plan import CostTable, Trajectory
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.spec import Layer, Option


def fault(found: object, probe: Probe) -> str | None:
    """The first thing that is wrong with what a method found, None where all is right."""
    if isinstance(found, CostTable):
        return next(_of_costs(found.costs, probe.options), None)
    if isinstance(found, Trajectory):
        return next(_of_path(found, probe), None)
    return f"it gave a {type(found).__name__}; wanted a CostTable or a Trajectory"


def _of_costs(
    costs: Mapping[str, Mapping[Option, float]], wanted: Mapping[str, Sequence[Option]]
) -> Iterator[str]:
    strange = [name for name in costs if name not in wanted]
    if strange:
        yield f"its table has costs of {', '.join(map(repr, strange))}, which is no layer with a choice"
    for name, options in wanted.items():
        given = costs.get(name, {})
        lacking = [str(option) for option in options if option not in given]
        if lacking:
            yield f"its table has no cost of layer {name!r} at {', '.join(lacking)}"
        beyond = [str(option) for option in given if option not in options]
        if beyond:
            yield f"its table has a cost of layer {name!r} at {', '.join(beyond)}, which it may not be given"


def _of_path(found: Trajectory, probe: Probe) -> Iterator[str]:
    parts = found.layers or probe.chosen
    yield from _of_parts(parts, probe)
    origins = {part.name: part.part_of or part.name for part in parts}
    decided = found.plans[0].options.keys()  # all plans are over the same
    if decided != origins.keys():
        yield f"its plans decide {_listed(decided)}; wanted {_listed(origins)}"
        return
    for plan in found.plans:
        for name, option in plan.options.items():
            if option not in probe.descent(origins[name]):
                yield f"a plan gives {name!r} {option}, which it may not be given"
    widths = [{name: option.weight_bits for name, option in plan.options.items()} for plan in found.plans]
    for wide, narrow in itertools.pairwise(widths):
        yield from (
            f"{name!r} grows on its path, which must only narrow"
            for name in wide
            if narrow[name] > wide[name]
        )
    for name, origin in origins.items():
        if widths[-1][name] > min(option.weight_bits for option in probe.options[origin]):
            yield f"its path ends before {name!r} has its narrowest option"


def _of_parts(parts: Sequence[Layer], probe: Probe) -> Iterator[str]:
    """Groups of channels hold each channel of their layer once."""
    for layer in probe.chosen:
        own = [part for part in parts if (part.part_of or part.name) == layer.name]
        channels = sorted(c for part in own for c in (part.part or range(part.channels)))
        if channels != list(range(layer.channels)) or sum(part.params for part in own) != layer.params:
            yield f"its groups of layer {layer.name!r} do not hold each of {layer.channels} channels once: {channels}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
