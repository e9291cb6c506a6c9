"""How the loss of every sample changes, to first order, with each layer at each width: one backward run a batch.

    slope[n, layer, width] = <dL/dY_n, layer(X_n, candidate - weight)>

Y is the layer's output and X its input in the float network. No gradient of a weight is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnxmpq.data import Batch
from onnxmpq.errors import DataError, ModelError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_directional import (
    Change,
    EmitDirectional,
    changes_name,
    directional_name,
    layer_outputs,
    rows_of,
)
from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.passes.expose.emit_tangents import EmitTangents
from onnxmpq.passes.normalize.raise_opset import RaiseOpset
from onnxmpq.runtime.session import Session
from onnxmpq.runtime.trace import common_shapes, trace
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Array, Doubles
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.runs import runs

Targets = Mapping[str, Array]  # by output
Shapes = Mapping[str, tuple[int | None, ...]]

_OPSET = 16  # sums by index, for pools whose windows overlap
_BYTES_A_PASS = 256 << 20  # of changes that one session holds


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss, what its outputs hold, and what a batch's outputs are compared with.

    With `tangents` the targets are random signs, which the graph makes tangents of (`EmitTangents`).
    """

    loss: Loss
    outputs: Mapping[str, OutputKind]
    targets: Callable[[Batch], Targets]
    tangents: bool = False


@dataclass(frozen=True, slots=True)
class _Share:
    """Some widths of a layer, in order; `columns` is where in all of its widths they are."""

    layer: Layer
    columns: slice
    widths: list[int]


def widths_of(probe: Probe) -> dict[str, list[int]]:
    """The widths that each layer with a choice may take, in order."""
    return {name: sorted({o.weight_bits for o in options}) for name, options in probe.options.items()}


def by_option(probe: Probe, costs: Mapping[str, Array]) -> dict[str, dict[Option, float]]:
    """The costs of all options, given each layer's by its widths as in `widths_of`."""
    return {
        name: {o: float(costs[name][bits.index(o.weight_bits)]) for o in probe.options[name]}
        for name, bits in widths_of(probe).items()
    }


def changes_of(probe: Probe, layer: Layer, widths: Sequence[int]) -> list[Change]:
    """What each width adds to the layer's weight, and to its bias if it has one of its own."""
    names = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    constants = {i.name: numpy_helper.to_array(i) for i in probe.model.graph.initializer if i.name in names}
    candidates = [probe.candidate(layer, bits) for bits in widths]
    return [{name: made[name] - constants[name] for name in names} for made in candidates]


def slopes(probe: Probe, objective: Callable[[], Objective]) -> Iterator[tuple[str, slice, Doubles]]:
    """(layer, which of its widths, slopes float64 [samples, widths]) of every layer with a choice, batch by batch.

    `objective` is made anew for each pass over the samples, so that what it draws is the same for all layers.

    Costs a forward and a backward run, and a product a width; as many layers and widths at once as memory allows. Where a
    batch cannot be told apart into samples along the first axis of every layer, samples go one by one.

    A model that takes n samples a run gives the slopes of n together, which is noted. Raises ModelError where no
    gradient reaches a layer, DataError for samples of another size than the rest.
    """
    note_runs(probe)
    groups = list(_groups(probe))
    for number, group in enumerate(groups):
        yield from _slopes(probe, objective(), group, number, len(groups))


def passes(probe: Probe) -> int:
    """How often `slopes` runs the network over the samples, forward and backward."""
    return sum(1 for _ in _groups(probe))


def _slopes(
    probe: Probe, objective: Objective, shares: Sequence[_Share], number: int, groups: int
) -> Iterator[tuple[str, slice, Doubles]]:
    shapes, size = batch_shapes(probe, [share.layer.weight for share in shares])
    changes = {share.layer.weight: changes_of(probe, share.layer, share.widths) for share in shares}
    model = _emitted(probe, objective, changes, shapes, per_sample=size > 1)
    session = probe.runtime.session(model, spin=False)
    rows = fed_changes(session, changes)
    done = number * probe.data.count
    for batch in probe.data.batches(size):
        check_sizes(batch, shapes)
        values = session.run({**batch.feeds, **fed_targets(objective, batch), **rows})
        for share in shares:
            found = values[directional_name(share.layer.weight)].astype(np.float64)
            yield share.layer.name, share.columns, found
        done += batch.count
        probe.progress(done, groups * probe.data.count)


def fed_targets(objective: Objective, batch: Batch) -> dict[str, Array]:
    """The targets of a batch by the names of the graph inputs that take them."""
    return {target_name(output): values for output, values in objective.targets(batch).items()}


def fed_changes(session: Session, changes: Mapping[str, Sequence[Change]]) -> dict[str, Array]:
    """Those changes of weights that the session takes as inputs, by their names."""
    wanted = {spec.name for spec in session.inputs}
    return {
        changes_name(weight): rows_of(some, weight)
        for weight, some in changes.items()
        if changes_name(weight) in wanted
    }


def _emitted(
    probe: Probe,
    objective: Objective,
    changes: Mapping[str, Sequence[Change]],
    shapes: Shapes,
    *,
    per_sample: bool,
) -> onnx.ModelProto:
    """The model that gives the slopes and nothing else."""
    graph = differentiable(probe.model)
    EmitLoss(objective.loss, objective.outputs)(graph)
    names = {layer.weight: layer.name for layer in probe.layers}
    outputs = {names[weight]: layer_outputs(graph, [weight]) for weight in changes}
    require_reached(emit_gradients(graph, outputs, shapes))
    if objective.tangents:
        EmitTangents(objective.outputs)(graph)
    EmitDirectional(changes, shapes, per_sample=per_sample, fed=True)(graph)
    kept = {directional_name(weight) for weight in changes}
    graph.outputs = [output for output in graph.outputs if output.name in kept]
    return export_model(graph, probe.model)


def differentiable(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph of an opset in which every gradient can be written."""
    graph = import_graph(model)
    RaiseOpset(_OPSET)(graph)
    return graph


def emit_gradients(graph: gs.Graph, tensors: Mapping[str, Sequence[str]], shapes: Shapes) -> list[str]:
    """Emit the gradients of each layer's tensors; the layers that no gradient of the loss reaches."""
    wanted = dict.fromkeys(name for some in tensors.values() for name in some)
    EmitGradients(LOSS, tuple(wanted), shapes)(graph)
    made = {output.name for output in graph.outputs}
    return [layer for layer, some in tensors.items() if not any(gradient_name(name) in made for name in some)]


def require_reached(lost: Sequence[str]) -> None:
    """Raise ModelError where no gradient of the loss reaches some layers."""
    if lost:
        raise ModelError(
            f"no gradient of the loss reaches {', '.join(lost)}: what they give is rounded, compared or left out "
            f"before the outputs; fix their widths (--keep '{lost[0]}=8'), or use --method measured"
        )


def batch_shapes(probe: Probe, weights: Sequence[str]) -> tuple[Shapes, int]:
    """(shapes of all tensors, batch size): None for the axis of samples where a batch can hold several."""
    if probe.batch_size > 1 and probe.data.count > 1:
        pair = next(probe.data.batches(2))
        shapes = common_shapes([probe.traced, trace(probe.runtime, probe.model, pair.feeds)])
        outputs = layer_outputs(import_graph(probe.model), weights)
        if all(counts_samples(shapes.get(name, ())) for name in outputs):
            return shapes, probe.batch_size
    return {name: traced.shape for name, traced in probe.traced.items()}, 1


def note_runs(probe: Probe) -> None:
    """Say where the model takes several samples a run, whose slopes cannot be told apart."""
    step = probe.data.source.step or 1
    if step > 1:
        probe.note(f"the model takes {step} samples a run; their slopes are those of one")


def counts_samples(shape: tuple[int | None, ...]) -> bool:
    """True where only the first axis is free (None): it is that of the samples."""
    return len(shape) > 0 and shape[0] is None and None not in shape[1:]


def check_sizes(batch: Batch, shapes: Shapes) -> None:
    """Raise DataError for a batch whose inputs are of other sizes than those that the graph was made for."""
    for name, values in batch.feeds.items():
        wanted = shapes.get(name, values.shape)
        sizes = zip(wanted, values.shape, strict=False)
        if values.ndim != len(wanted) or any(w not in (None, size) for w, size in sizes):
            raise DataError(
                f"a sample of input {name!r} has the shape {list(values.shape)}, others {list(wanted)}; gradients "
                "need samples of one size: crop them, or use --method measured"
            )


def _groups(probe: Probe) -> Iterator[list[_Share]]:
    """Layers, each with all of its widths or with as many as fit, whose changes fit in memory together."""
    return runs(_shares(probe), lambda share: 4 * share.layer.params * len(share.widths), _BYTES_A_PASS)


def _shares(probe: Probe) -> Iterator[_Share]:
    """All layers that have a choice, those too large for a pass with some widths at a time."""
    widths = widths_of(probe)
    for layer in probe.chosen:
        own = widths[layer.name]
        most = max(1, _BYTES_A_PASS // max(4 * layer.params, 1))  # hence no two shares of a layer in a pass
        for columns in (slice(first, first + most) for first in range(0, len(own), most)):
            yield _Share(layer, columns, own[columns])
