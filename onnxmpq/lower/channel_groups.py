"""Groups of a layer's channels, lowered: constants of their own in the model, each of which a layer reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from onnxmpq.context.prepared import Prepared
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.lower.split_channels import ChannelGroups, SplitChannels
from onnxmpq.values.group import Group, Unit, channels_of, layer_of, part_name
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan


def joined(units: Iterable[Unit], plan: Plan) -> dict[Unit, Option]:
    """What a file stores apart: a layer's groups of one option are one, and one that holds all is the layer itself."""
    channels: dict[Layer, dict[Option, list[int]]] = {}
    for unit in units:
        own = channels.setdefault(layer_of(unit), {})
        own.setdefault(plan[unit.name], []).extend(channels_of(unit))
    found: dict[Unit, Option] = {}
    for layer, own in channels.items():
        for i, (option, some) in enumerate(own.items()):
            found[layer if len(own) == 1 else Group(layer, tuple(sorted(some)), i)] = option
    return found


def split(prepared: Prepared, units: Sequence[Unit]) -> Prepared:
    """The model with constants of their own for the groups among `units`; each group's are a layer of it."""
    graph = import_graph(prepared.model)
    SplitChannels(_constants(units))(graph)
    layers = tuple(_part(unit) if isinstance(unit, Group) else unit for unit in units)
    return replace(prepared, model=export_model(graph, prepared.original), layers=layers)


def _constants(units: Iterable[Unit]) -> dict[str, ChannelGroups]:
    """How the weights and biases of divided layers are split."""
    channels: dict[Layer, list[tuple[int, ...]]] = {}
    for unit in units:
        if isinstance(unit, Group):
            channels.setdefault(unit.layer, []).append(unit.channels)
    found = {}
    for layer, groups in channels.items():
        found[layer.weight] = ChannelGroups(layer.axis, tuple(groups))
        if layer.bias is not None:
            found[layer.bias] = ChannelGroups(0, tuple(groups))
    return found


def _part(group: Group) -> Layer:
    """The layer of a group's own constants, as `SplitChannels` makes them."""
    layer, shape = group.layer, list(group.layer.shape)
    shape[layer.axis] = len(group.channels)
    return replace(
        layer,
        name=group.name,
        weight=part_name(layer.weight, group.index),
        bias=None if layer.bias is None else part_name(layer.bias, group.index),
        shape=tuple(shape),
        macs=group.macs,
    )
