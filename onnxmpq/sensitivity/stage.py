"""sensitivity: what each option of each layer costs, or a path through the plans, as the method finds it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from onnxmpq.check.stage import unmeasured
from onnxmpq.context.setting import Setting
from onnxmpq.errors import OnnxmpqError, OptionError
from onnxmpq.onnx_io.output_file import write_file
from onnxmpq.request import no_times
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.sensitivity.answer import fault
from onnxmpq.sensitivity.methods import Method, is_ours, name_of
from onnxmpq.sensitivity.noise import activation_losses, with_noise
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.saved import saved_text
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.group import part_name
from onnxmpq.values.option import Option, Options
from onnxmpq.values.plan import Plan


def measure(setting: Setting, candidates: Candidates, save: Path | None = None) -> Sensitivity:
    """The cost of every option of every layer, or a path through them, measured where a layer has a choice.

    Where that choice is between integers and float, the cost of integers holds that of the rounded input.
    What the method found is written to `save` at once: a plan may fail, and the method need not look again.
    Raises OptionError for a method of the user's that fails or gives something else.
    """
    method = setting.request.search.method
    if setting.forced is not None:
        if save is not None:
            setting.stages.note(f"nothing was measured, so there is nothing to save as {save}")
        return unmeasured(setting)
    probe = probe_of(setting, candidates)
    found = asked(method, probe)
    if save is not None:
        write_file(saved_text(found, probe).encode(), save)
    if isinstance(found, Trajectory):
        if setting.request.is_timed:
            raise no_times(method)
        return whole_path(found, setting.options)
    table = whole_table(found, setting.options)
    known = {metric.name: metric for metric in (probe.metric, probe.metric.plain)}
    read = float_rivals(setting) if table.metric in known else {}
    if not read:
        return table
    return with_noise(table, activation_losses(replace(probe, metric=known[table.metric]), read))


def probe_of(setting: Setting, candidates: Candidates) -> Probe:
    """What the method may look at."""
    prepared, splits = setting.prepared, setting.splits
    options = asked_options(setting)
    untouched = {name: o for name, some in options.items() for o in setting.options[name] if o not in some}
    return Probe(
        prepared.model, prepared.layers, options, candidates.constants, splits.sensitivity, prepared.metric,
        setting.runtime, prepared.traced, prepared.batch_size, setting.request.search.seed, splits.training,
        setting.stages.observer.progress, setting.stages.note, untouched, setting.workers,
    )  # fmt: skip


def asked_options(setting: Setting) -> dict[str, tuple[Option, ...]]:
    """The options whose costs a method is asked for: of layers with a choice, all that change the weight."""
    own = {layer.name: layer.float_bits for layer in setting.prepared.layers}
    chosen = ((name, choices) for name, choices in setting.options.items() if len(choices) > 1)
    return {name: tuple(o for o in some if o.weight_bits < own[name]) for name, some in chosen}


def asked(method: Method, probe: Probe) -> Sensitivity:
    """What the method gives. Raises OptionError where one of the user's raises, or gives what a method may not."""
    try:
        found = method(probe)
    except OnnxmpqError:
        raise
    except (Exception, SystemExit) as error:
        if is_ours(method):
            raise
        raise OptionError(f"the method {name_of(method)} failed: {type(error).__name__}: {error}") from error
    wrong = None if is_ours(method) else fault(found, probe)
    if wrong is not None:
        raise OptionError(
            f"the method {name_of(method)} cannot be used: {wrong}; onnxmpq.testing.check_method says what else it must keep"
        )
    return found


def whole_path(found: Trajectory, options: Options) -> Trajectory:
    """The path with the layers that have no choice: of these it may say something else, if it was saved."""
    fixed = {layer: choices[0] for layer, choices in options.items() if len(choices) == 1}
    parts = {part_name(layer, i) for layer in fixed for i in range(len(found.groups.get(layer, ())))}
    free = [name for name in found.plans[0].options if name not in fixed.keys() | parts]
    plans = tuple(Plan({**fixed, **{name: plan[name] for name in free}}) for plan in found.plans)
    groups = {layer: own for layer, own in found.groups.items() if layer not in fixed}
    return replace(found, plans=plans, groups=groups)


def whole_table(found: CostTable, options: Options) -> CostTable:
    """The table with every option of every layer; what was not measured costs nothing."""
    flat = {layer: dict.fromkeys(choices, 0.0) for layer, choices in options.items()}
    return replace(found, costs={n: {**free, **found.costs.get(n, {})} for n, free in flat.items()})


def float_rivals(setting: Setting) -> dict[str, tuple[str, ActivationRange]]:
    """What each layer that may compute in integers or in float reads: the tensor, and its range as int8."""
    layers, options = setting.prepared.layers, setting.options
    free = {la.name for la in layers if len({o.activation_bits for o in options[la.name]}) > 1}
    return inputs_of(setting, free)


def inputs_of(setting: Setting, names: Collection[str]) -> dict[str, tuple[str, ActivationRange]]:
    """What each of these layers reads, as far as it is quantized: the tensor, and its range."""
    prepared, quantized = setting.prepared, setting.quantized
    ranges = quantized.placement.shared(quantized.ranges)
    inputs: dict[str, str] = {}
    for node in prepared.model.graph.node:
        if len(node.input) > 1:
            inputs.setdefault(node.input[1], node.input[0])  # of a shared weight: its first use
    read = {layer.name: inputs[layer.weight] for layer in prepared.layers if layer.name in names}
    return {name: (tensor, ranges[tensor]) for name, tensor in read.items() if tensor in ranges}
