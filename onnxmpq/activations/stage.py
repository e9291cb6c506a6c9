"""activations: which layers compute in integers, by what that costs in loss and gains in time.

Weights are rounded and widths planned as if all did that can. Then the layers go back to float whose integer inputs cost
more than they gain, and those that are slower; and all of them where the file would still take longer than the float one,
or hardly less while its function suffers.
What went to float has the longest codes again that were asked for, where the budget leaves one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache, cached_property

import onnx

from onnxmpq.activations.by_loss import IntegerInput, Layers, Network, costly
from onnxmpq.activations.by_time import slower
from onnxmpq.allocate.choose import counts_fit, file_fits
from onnxmpq.allocate.stage import allocate
from onnxmpq.context.setting import Setting
from onnxmpq.data import Dataset
from onnxmpq.errors import InfeasibleError
from onnxmpq.lower.draft import Lowering
from onnxmpq.lower.neighbours import layers_before
from onnxmpq.metrics.reference_outputs import Expected
from onnxmpq.metrics.score import mean_loss
from onnxmpq.normalize.discover import readers_of
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.dynamic import place_dynamic
from onnxmpq.rounding.stage import rounded_at
from onnxmpq.sensitivity.noise import activation_losses
from onnxmpq.sensitivity.stage import inputs_of, probe_of
from onnxmpq.timing.layer_times import LayerTimes, layer_times
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.group import layer_of
from onnxmpq.values.keep import options_of
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan

_SAMPLES, _FEWEST = 32, 12  # fewer of large networks, whose maps have more to compare
_NAMED = 3
_NEGLIGIBLE = 0.1  # of the loss: activations that bring less are not looked into
_HARMLESS = 0.25  # of the loss from which on a network's function suffers: less is not looked into
_MUCH = {"nse": 5e-3, "kl": 5e-3, "soft-kl": 2e-2}  # of the loss, in its own units: the function suffers
# Of the float model's time: a file that takes less gains by its integers, whatever a single layer does.
_LITTLE = 0.9
_FASTER = 0.98  # less is within what two measurements differ by
_AS_FAST = 1.03
_BATCH = 8  # samples, where the graph takes several
_CLEARLY = 0.8  # of what calibrated ranges lose

COSTLY = "in integers they cost more in loss than they gain in time"
SLOWER = "their integer kernels are slower than their float ones here"
ALL_SLOWER = "in integers the file would take longer than the float one here"
ALL_DEAR = "in integers the network's function suffers for less than a tenth of its time here"


@dataclass(frozen=True)
class Choice:
    """A plan, what it is over, and what its options cost."""

    lowering: Lowering
    costs: Sensitivity
    plan: Plan

    @property
    def integer(self) -> Layers:
        """The layers that compute in integers."""
        options = self.plan.options
        units = (unit for unit in self.lowering.units if options[unit.name].activation_bits is not None)
        return Layers(layer_of(unit).name for unit in units)

    @cached_property
    def loss(self) -> Callable[[Layers], float]:
        """The loss of the plan's file with more layers in float."""
        return losses_of(self)

    def in_float(self, names: Collection[str]) -> Plan:
        """The plan with these layers in float, at the same widths."""
        moved = {unit.name for unit in self.lowering.units if layer_of(unit).name in names}
        options = self.plan.options.items()
        return Plan({name: float_option(o) if name in moved else o for name, o in options})

    def dynamic(self, names: Layers) -> Choice:
        """The same with the ranges of what these layers read found when the file runs."""
        setting = self.lowering.setting
        quantized = replace(setting.quantized, dynamic=names)
        return replace(self, lowering=replace(self.lowering, setting=replace(setting, quantized=quantized)))

    def without(self, names: Layers, reason: str) -> Choice:
        """The same with these layers in float for that reason, and nothing else to choose."""
        setting = self.lowering.setting
        reasons = {**setting.quantized.reasons, **dict.fromkeys(names, reason)}
        narrowed = replace(
            setting,
            options=floated(setting.options, names),
            forced=None if setting.forced is None else floated(setting.forced, names),
            quantized=replace(setting.quantized, reasons=reasons),
        )
        return Choice(
            replace(self.lowering, setting=narrowed), costs_in_float(self.costs, names), self.in_float(names)
        )

    @property
    def is_within(self) -> bool:
        """True where the plan meets all budgets that are counted, on its file's bytes, too."""
        budgets = self.lowering.setting.request.constraints.budgets
        counted = counts_fit(budgets, self.lowering.units, self.plan)
        return counted and file_fits(budgets, self.plan, self.lowering.file_size)

    def reallocated(self) -> Choice:
        """The same with widths chosen anew, where they are chosen by costs and the budgets still leave some."""
        if not isinstance(self.costs, CostTable) or self.lowering.setting.request.is_measured:
            return self
        try:
            return replace(self, plan=allocate(self.lowering, self.costs, None))
        except InfeasibleError:
            return self


def choose_activations(choice: Choice) -> Choice:
    """The plan with integers where they pay. Time is asked first: what is slower need not be judged."""
    if not choice.integer:
        return choice
    timed_one = choice = no_slower(choice)
    if not choice.integer:
        return widened(choice)
    choice = with_dynamic_ranges(choice)
    choice = spared(choice, costly_layers(choice), COSTLY)
    if choice is not timed_one:
        choice = no_slower(choice)
    if 0 < much(choice) < lost_by_integers(choice) and takes(choice, _LITTLE):
        choice = spared(choice, choice.integer, ALL_DEAR)
    return widened(choice)


def no_slower(choice: Choice) -> Choice:
    """The choice without the integer layers that make its file slower, or with none where it is slower all the same."""
    if takes(choice, _LITTLE):
        choice = spared(choice, slower(timed(choice), choice.integer), SLOWER)
        if takes(choice, _FASTER):
            choice = spared(choice, choice.integer, ALL_SLOWER)
    return choice


def widened(choice: Choice) -> Choice:
    """The choice with the longest codes for what computes in float: those of integer kernels are kept shorter for some CPUs.

    Only of the one sensible plan, within the budgets: where widths were chosen, the longest mattered to few layers.
    """
    lowering, costs = choice.lowering, choice.costs
    found = longer_in_float(choice)
    if not found or not isinstance(costs, CostTable):
        return choice
    plan = Plan({**choice.plan.options, **found})
    options = {name: (option,) for name, option in plan.options.items()}
    setting = replace(lowering.setting, options=options, forced=options)
    lowering = rounded_at(replace(lowering, setting=setting), {name: options[name] for name in found})
    free = {name: {option: 0.0} for name, option in plan.options.items()}
    wide = Choice(lowering, replace(costs, costs=free), plan)
    return wide if wide.is_within else choice


def longer_in_float(choice: Choice) -> dict[str, Option]:
    """The options of longer codes of layers that compute in float, where the budget left one sensible plan."""
    setting = choice.lowering.setting
    if setting.forced is None:
        return {}
    asked, target = setting.request.constraints, setting.request.target
    beside = target.is_plain and bool(choice.integer)
    widest = {
        name: target.legalize(codes[-1], beside_integers=beside)
        for name, some in options_of(setting.prepared.layers, asked.widths, None, asked.kept).items()
        if (codes := [option for option in some if option.is_quantized])
    }
    return {
        name: widest[name]
        for name, own in choice.plan.options.items()
        if own.is_quantized
        and own.activation_bits is None
        and own.weight_bits < widest.get(name, own).weight_bits
    }


def spared(choice: Choice, names: Layers, reason: str) -> Choice:
    """The choice without these integer layers; said. They stay where a budget would break otherwise (BOPs)."""
    if not names:
        return choice
    fewer = choice.without(names, reason)
    fewer = fewer if fewer.is_within else fewer.reallocated()
    if not fewer.is_within:
        return choice
    choice.lowering.setting.stages.note(told(names, choice.integer, reason))
    return fewer


def told(names: Layers, integer: Layers, reason: str) -> str:
    """What goes to float, and why."""
    first, more = ", ".join(sorted(names)[:_NAMED]), len(names) - _NAMED
    others = f" and {more} more" if more > 0 else ""
    return f"{len(names)} of {len(integer)} integer layers compute in float, since {reason}: {first}{others}"


def float_option(option: Option) -> Option:
    """The same codes in the same tensor, computed with in float."""
    return replace(option, activation_bits=None)


def floated(options: Options, names: Collection[str]) -> dict[str, tuple[Option, ...]]:
    """The options, of these layers in float only."""
    return {
        name: tuple(dict.fromkeys(map(float_option, choices))) if name in names else tuple(choices)
        for name, choices in options.items()
    }


def costs_in_float(costs: Sensitivity, names: Collection[str]) -> Sensitivity:
    """The table with these layers' costs at the same widths in float; a path stays as it is."""
    if not isinstance(costs, CostTable):
        return costs
    moved = {
        name: {float_option(o): cost for o, cost in table.items()} if name in names else table
        for name, table in costs.costs.items()
    }
    return replace(costs, costs=moved)


def costly_layers(choice: Choice) -> Layers:
    """The layers that cost more in loss than they gain."""
    loss, integer, setting = choice.loss, choice.integer, choice.lowering.setting
    suffering, whole = much(choice), loss(Layers())
    if whole < _HARMLESS * suffering or whole - loss(integer) < _NEGLIGIBLE * whole:
        return Layers()
    macs = {layer.name: layer.macs for layer in setting.prepared.layers if layer.name in integer}
    total = max(sum(macs.values()), 1)

    def share(floats: Layers) -> float:
        return sum(count for name, count in macs.items() if name in floats) / total

    return costly(integer_inputs(choice.lowering, integer), Network(loss, share, suffering))


def with_dynamic_ranges(choice: Choice) -> Choice:
    """The choice with the ranges of matrices' inputs found when the file runs, where these lose clearly less by it; said."""
    layers = dynamic_layers(choice)
    if not layers or not is_timed(choice.lowering.setting):
        return choice
    found, others = choice.dynamic(layers), choice.integer - layers
    whole, exact = choice.loss(Layers()), choice.loss(choice.integer)
    added, less = choice.loss(others) - exact, found.loss(others) - exact
    matters = whole > _HARMLESS * much(choice) and added > _NEGLIGIBLE * whole
    if not matters or less > _CLEARLY * added or is_slower(found, choice):
        return choice
    choice.lowering.setting.stages.note(
        f"the ranges of what {len(layers)} layers read are found when the file runs: their matrices lose less by them"
    )
    return found


def dynamic_layers(choice: Choice) -> Layers:
    """The integer layers that may find the range of their input when they run, since no other kernel makes or reads its codes."""
    setting, integer = choice.lowering.setting, choice.integer
    prepared, static = setting.prepared, setting.quantized.placement
    graph = import_graph(prepared.model)
    free = place_dynamic(graph, prepared.layers, integer)
    alone = {
        name
        for name, readers in free.dynamic.items()
        if static.float_sources.get(name, frozenset()) == readers
    }
    blocked = readers_of(graph, prepared.layers, free.dynamic.keys() - alone)
    return Layers(free.integer_layers) - blocked


def is_slower(choice: Choice, other: Choice) -> bool:
    """True where one file takes clearly longer than the other."""
    return choice.lowering.slowdown(choice.plan) > _AS_FAST * other.lowering.slowdown(other.plan)


def much(choice: Choice) -> float:
    """The loss from which on the network's function suffers; 0 where nobody knows."""
    return _MUCH.get(choice.lowering.setting.prepared.metric.name, 0.0)


def lost_by_integers(choice: Choice) -> float:
    """What the integer inputs of all layers together add to the loss of the plan's file."""
    return choice.loss(Layers()) - choice.loss(choice.integer) if choice.integer else 0.0


def integer_inputs(lowering: Lowering, integer: Layers) -> list[IntegerInput]:
    """The quantized tensors that integer layers read, each with what its rounding alone costs."""
    setting = lowering.setting
    read = inputs_of(setting, integer - setting.quantized.dynamic)
    probe = replace(probe_of(setting, lowering.candidates), data=samples_of(setting))
    losses = activation_losses(probe, read)
    tensors: dict[str, set[str]] = {}
    for layer, (tensor, _) in read.items():
        tensors.setdefault(tensor, set()).add(layer)
    before = layers_before(setting.prepared, setting.quantized.placement, tensors)
    return [
        IntegerInput(Layers(some), Layers(before[tensor] & integer), sum(losses[name] for name in some))
        for tensor, some in tensors.items()
    ]


def samples_of(setting: Setting) -> Dataset:
    """What activations are judged on."""
    count = min(max(setting.prepared.batch_size, _FEWEST), _SAMPLES)
    return setting.splits.sensitivity.some(count, setting.request.search.seed)


def losses_of(choice: Choice) -> Callable[[Layers], float]:
    """The loss of the plan's file with more layers in float; each is measured once."""
    setting = choice.lowering.setting
    expected = Expected(
        setting.reference, samples_of(setting), setting.prepared.batch_size, metric=setting.prepared.metric
    )

    @cache
    def loss(floats: Layers) -> float:
        draft = choice.lowering.draft(choice.in_float(floats))
        session = setting.runtime.session(draft.lowered(), spin=False)
        return mean_loss(expected, session, draft.prepared.metric)

    return loss


def takes(choice: Choice, share: float) -> bool:
    """True where the file takes more than that share of the float model's time, on all cores, on one thread or in a batch.

    Twice: other programs may be in the way. Never where it cannot be timed here. Nobody knows how it will be run.
    """
    lowering = choice.lowering
    if not choice.integer or not is_timed(lowering.setting):
        return False
    timer = lowering.timer(choice.plan)
    batch = min(lowering.setting.prepared.batch_size, _BATCH)
    ways = [(True, None), (False, None), *([(False, batch)] if batch > 1 else [])]
    return any(
        all(timer.slowdown(on_one_thread=alone, batch=size) > share for _ in range(2)) for alone, size in ways
    )


def is_timed(setting: Setting) -> bool:
    """True where the times here are those of the file."""
    return setting.request.target.provider == "cpu" == setting.runtime.provider


def timed(choice: Choice) -> LayerTimes:
    """Seconds of each layer in integers and in float."""
    lowering, integer = choice.lowering, choice.integer
    prepared = lowering.setting.prepared

    def lowered(floats: Collection[str]) -> onnx.ModelProto:
        return lowering.draft(choice.in_float(integer.intersection(floats))).lowered()

    return layer_times(lowering.setting.runtime, prepared.layers, prepared.sample, prepared.original, lowered)
