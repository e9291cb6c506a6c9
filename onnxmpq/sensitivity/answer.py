"""What a method may answer: costs of all options of all layers that have a choice, or a path that only narrows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise

from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.costs import CostTable, Trajectory
from onnxmpq.values.group import divided, layer_of
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
    origins = {unit.name: layer_of(unit).name for unit in divided(probe.layers, found.groups)}
    strange = found.plans[0].options.keys() - origins.keys()  # all plans are over the same
    if strange:
        yield f"its plans decide {_listed(strange)}, which the model does not have"
        return
    yield from _of_chosen(found, probe)
    for plan in found.plans:
        for name, option in plan.options.items():
            origin = origins[name]
            if origin in probe.options and option not in probe.descent(origin):
                yield f"a plan gives {name!r} {option}; wanted one of probe.descent({origin!r})"
    widths = [{name: option.weight_bits for name, option in plan.options.items()} for plan in found.plans]
    for wide, narrow in pairwise(widths):
        yield from (
            f"{name!r} grows on its path, which must only narrow"
            for name in wide
            if narrow[name] > wide[name]
        )


def _of_chosen(found: Trajectory, probe: Probe) -> Iterator[str]:
    """Every layer with a choice is decided, and groups of channels hold each of its channels once."""
    for unit in divided(probe.chosen, found.groups):
        if unit.name not in found.plans[0].options:
            yield f"its plans do not decide {unit.name!r}"
    for layer in probe.chosen:
        channels = sorted(chain.from_iterable(found.groups.get(layer.name, [range(layer.channels)])))
        if channels != list(range(layer.channels)):
            yield f"its groups of layer {layer.name!r} do not hold each of {layer.channels} channels once: {channels}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
