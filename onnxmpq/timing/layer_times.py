"""What each layer takes as an integer kernel and what it takes in float, measured in place.

The network runs as three files: with all layers in integers, and with every other layer in float, the even ones
and then the odd ones. So a layer's float kernel is timed where the plan would put it, among integer layers, and
the Q/DQ pairs at its borders are timed with it. Everything between layers (sums, pools, pairs, reordering) counts
for the layer before it; a DequantizeLinear, a DynamicQuantizeLinear, and what comes before the first layer, for the layer that reads it.

A stored width costs nothing at all here: weights are unpacked when the session is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxmpq.metrics.latency import interleaved, medians
from onnxmpq.onnx_io.subgraph import names_read
from onnxmpq.operators import OPERATORS
from onnxmpq.runtime.session import Runtime
from onnxmpq.timing.kernel_times import KernelTime, kernel_times
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

_RUNS = 30
_SECONDS = 0.5  # at least, for what the whole files take

Lowered = Callable[[Collection[str]], onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one run, by layer's name, as an integer layer and as a float one among integer ones.

    `fp32` and `integer_file` are seconds of the whole network, in float and with all layers in integers that can
    be; the sum over `integer` is the latter.
    """

    integer: Mapping[str, float]
    floating: Mapping[str, float]
    fp32: float
    integer_file: float


def layer_times(
    runtime: Runtime,
    layers: Sequence[Layer],
    feeds: Mapping[str, Array],
    fp32: onnx.ModelProto,
    lowered: Lowered,
) -> LayerTimes:
    """Time every layer in both forms on `feeds`; `lowered(names)` is the file with these layers in float.

    Kernel times of each file are scaled to what the file takes as a whole, all files interleaved. Layers that no
    kernel could be told for (in control-flow bodies) take no time of their own.
    Raises EngineError where the runtime refuses a file.
    """
    names = [layer.name for layer in layers]
    halves = frozenset(names[::2]), frozenset(names[1::2])
    files = [lowered(floats) for floats in ((), *halves)]
    rounds = interleaved([runtime.session(model) for model in (fp32, *files)], feeds, least=_SECONDS)
    whole, *seconds = medians(rounds)
    integer, *mixed = (
        _scaled(_by_layer(runtime, model, layers, feeds), total)
        for model, total in zip(files, seconds, strict=True)
    )
    floating = {name: times[name] for half, times in zip(halves, mixed, strict=True) for name in half}
    return LayerTimes(integer, floating, whole, seconds[0])


def _scaled(times: Mapping[str, float], total: float) -> dict[str, float]:
    factor = total / (sum(times.values()) or total)
    return {name: seconds * factor for name, seconds in times.items()}


def _by_layer(
    runtime: Runtime, model: onnx.ModelProto, layers: Sequence[Layer], feeds: Mapping[str, Array]
) -> dict[str, float]:
    named = _named(model)
    times = kernel_times(runtime, named, feeds, _RUNS)
    owners = attribute(times, named, layers)
    found = {layer.name: 0.0 for layer in layers}
    for time, owner in zip(times, owners, strict=True):
        found[owner] += time.seconds
    return found


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes bear the names of their first outputs: the runtime makes new names of these."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = next(filter(None, node.output))
    return copy


def attribute(times: Sequence[KernelTime], model: onnx.ModelProto, layers: Sequence[Layer]) -> list[str]:
    """The name of the layer that each kernel's time counts for; `model` is what the runtime made kernels of.

    Nodes of `model` are named after their first outputs.
    """
    order = {layer.name: place for place, layer in enumerate(layers)}
    kernels = layer_kernels(times, model, layers)
    made: dict[str, str] = {}  # tensor -> the latest layer before it
    owners: list[str | None] = []
    for place, time in enumerate(times):
        before = [made[name] for name in time.inputs if name in made]
        owner = kernels.get(place) or max(before, key=order.__getitem__, default=None)
        made |= dict.fromkeys(time.outputs, owner) if owner is not None else {}
        owners.append(owner)
    read: dict[str, str] = {}  # tensor -> the first layer behind it
    for place, time in reversed([*enumerate(times)]):
        behind = min((read[n] for n in time.outputs if n in read), key=order.__getitem__, default=None)
        if place not in kernels and behind is not None and (owners[place] is None or _dequantizes(time)):
            owners[place] = behind
        if reader := kernels.get(place) or behind:
            read |= {n: min(reader, read.get(n, reader), key=order.__getitem__) for n in time.inputs}
    return [owner or layers[0].name for owner in owners]


def _dequantizes(time: KernelTime) -> bool:
    return time.op in ("DequantizeLinear", "DynamicQuantizeLinear")


def layer_kernels(
    times: Sequence[KernelTime], model: onnx.ModelProto, layers: Sequence[Layer]
) -> dict[int, str]:
    """The layer of each kernel that computes one, by the kernel's place.

    A kernel that took in a sum may stand for the layer on either side of it: the clear cases are decided first,
    and of what they leave, a kernel is the latest.
    """
    behind = _nodes_behind(model, layers)
    profiled = frozenset[str]().union(*(operator.profiled for operator in OPERATORS.values()))
    undecided = {
        place: behind[known]
        for place, time in enumerate(times)
        if time.op in profiled and (known := _known_name(time, behind))
    }
    taken: set[int] = set()
    found: dict[int, str] = {}
    for place, candidates in sorted(undecided.items(), key=lambda item: len(item[1])):
        free = [node for node in candidates if node not in taken]
        if free:
            taken.add(max(free))
            found[place] = candidates[max(free)]
    return found


def _nodes_behind(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, dict[int, str]]:
    """For every tensor the nearest layers before it: places of their nodes in `model`, and the layers' names."""
    weights = {layer.weight: layer.name for layer in layers}
    found: dict[str, dict[int, str]] = {}
    for place, node in enumerate(model.graph.node):
        layer = next((weights[name] for name in names_read(node) if name in weights), None)
        inherited = itertools.chain.from_iterable(found.get(name, {}).items() for name in node.input)
        own = dict(inherited) if layer is None else {place: layer}
        if own:
            found |= {name: own for name in node.output if name}
    return found


def _known_name(time: KernelTime, known: Collection[str]) -> str | None:
    """The tensor of the original graph that a kernel makes.

    Where the kernel's outputs are new, its own name tells: the runtime appends to the name of what it replaces.
    """
    return next((name for name in (*time.outputs, *_stems(time.name)) if name in known), None)


def _stems(name: str) -> Iterable[str]:
    while name:
        yield name
        name = name.rpartition("_")[0]
