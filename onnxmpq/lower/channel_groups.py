"""Groups of a layer's channels as layers of their own, in the model, its layers, its candidates and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.context.prepared import Prepared
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.lower.split_channels import ChannelGroups, SplitChannels, part_name, place_type
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.values.layer import Layer
from onnxmpq.values.plan import Plan


def part_of(layer: Layer, index: int, channels: Sequence[int]) -> Layer:
    """Some output channels of a layer as a layer of their own, as `SplitChannels` makes them."""
    shape = list(layer.shape)
    shape[layer.axis] = len(channels)
    return replace(
        layer,
        name=part_name(layer.name, index),
        weight=part_name(layer.weight, index),
        bias=None if layer.bias is None else part_name(layer.bias, index),
        shape=tuple(shape),
        macs=layer.macs * len(channels) // layer.channels,
        part=tuple(channels),
        place_bytes=place_type(layer.channels).itemsize,
        part_of=layer.name,
    )


def with_units(prepared: Prepared, units: Sequence[Layer]) -> tuple[Layer, ...]:
    """The model's layers, those that `units` divide replaced by their groups."""
    groups: dict[str, list[Layer]] = {}
    for unit in units:
        groups.setdefault(unit.origin, []).append(unit)
    return tuple(
        replace(unit, scale_bytes=layer.scale_bytes)  # a path may have been found for another target
        for layer in prepared.layers
        for unit in groups.get(layer.name, [layer])
    )


def grouped(
    prepared: Prepared, candidates: Candidates, units: Sequence[Layer], plan: Plan
) -> tuple[Prepared, Candidates, Plan]:
    """What compiles a plan over groups: groups of one width are one, and what is one group is the layer itself."""
    if not units:
        return prepared, candidates, plan
    layers, options, split = [], {}, {}
    for layer in prepared.layers:
        widths: dict[int, list[int]] = {}
        own = [unit for unit in units if unit.part_of == layer.name]
        for unit in own:
            widths.setdefault(plan[unit.name].weight_bits, []).extend(unit.part)
        chosen = {plan[unit.name].weight_bits: plan[unit.name] for unit in own}
        if len(widths) < 2:
            layers.append(layer)
            options[layer.name] = next(iter(chosen.values())) if own else plan[layer.name]
            continue
        parts = [part_of(layer, i, sorted(widths[bits])) for i, bits in enumerate(widths)]
        layers += parts
        options |= {part.name: chosen[bits] for part, bits in zip(parts, widths, strict=True)}
        groups = tuple(part.part for part in parts)
        split[layer.weight] = ChannelGroups(layer.axis, groups)
        if layer.bias is not None:
            split[layer.bias] = ChannelGroups(0, groups)
    graph = import_graph(prepared.model)
    SplitChannels(split)(graph)
    model = export_model(graph, prepared.original)
    found = replace(prepared, model=model, layers=tuple(layers))
    return found, candidates.of_parts(model, layers), Plan(options)
