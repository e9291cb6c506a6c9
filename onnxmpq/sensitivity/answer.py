"""What a method may answer: costs of all options of all layers that have a choice, or a path that only narrows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option


def fault(found: object, probe: Probe) -> str | None:
    """The first thing that is wrong with what a method found, None where all is right."""
    if isinstance(found, CostTable):
        return next(_of_costs(found.costs, probe), None)
    if isinstance(found, Trajectory):
        return next(_of_path(found, probe), None)
    return f"it gave a {type(found).__name__}; wanted a CostTable or a Trajectory"


def _of_costs(costs: Mapping[str, Mapping[Option, float]], probe: Probe) -> Iterator[str]:
    """Costs of layers without a choice, and of being left as it is, do no harm."""
    strange = costs.keys() - {layer.name for layer in probe.layers}
    if strange:
        yield f"its table has costs of {_listed(strange)}, which the model does not have; wanted those of probe.options"
    for name, options in probe.options.items():
        given, offered = costs.get(name, {}), probe.descent(name)
        lacking = [str(option) for option in options if option not in given]
        if lacking:
            yield f"its table has no cost of layer {name!r} at {', '.join(lacking)}; wanted all of probe.options"
        beyond = [str(option) for option in given if option not in offered]
        if beyond:
            yield f"its table has a cost of layer {name!r} at {', '.join(beyond)}; wanted only those of probe.options"


def _of_path(found: Trajectory, probe: Probe) -> Iterator[str]:
    decided = found.plans[0].options.keys()  # all plans are over the same
    parts = found.layers or [layer for layer in probe.layers if layer.name in decided]
    origins = {part.name: part.origin for part in parts}
    strange = {*origins.values(), *(decided - origins.keys())} - {layer.name for layer in probe.layers}
    if strange:
        yield f"its plans decide {_listed(strange)}, which the model does not have"
        return
    yield from _of_parts(parts, probe)
    for plan in found.plans:
        for name, option in plan.options.items():
            origin = origins.get(name, name)
            if origin in probe.options and option not in probe.descent(origin):
                yield f"a plan gives {name!r} {option}; wanted one of probe.descent({origin!r})"
    widths = [{name: option.weight_bits for name, option in plan.options.items()} for plan in found.plans]
    for wide, narrow in itertools.pairwise(widths):
        yield from (
            f"{name!r} grows on its path, which must only narrow"
            for name in wide
            if narrow[name] > wide[name]
        )


def _of_parts(parts: Sequence[Layer], probe: Probe) -> Iterator[str]:
    """Every layer with a choice is decided, and groups of channels hold each of its channels once."""
    for layer in probe.chosen:
        own = [part for part in parts if part.origin == layer.name]
        if not own:
            yield f"its plans do not decide {layer.name!r}"
            return
        channels = sorted(c for part in own for c in (part.part or range(part.channels)))
        if channels != list(range(layer.channels)) or sum(part.params for part in own) != layer.params:
            yield f"its groups of layer {layer.name!r} do not hold each of {layer.channels} channels once: {channels}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
