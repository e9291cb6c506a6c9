"""The last rounding: each layer in turn against what it really gets, once all widths are known.

Behind quantized layers a layer's inputs x' are no longer those x that it was trained for. Its rows are first
fitted to give what the float network gives there, from what the quantized one feeds it,

    W' = argmin sum |t - W' x'|^2 + |(W' - W) R^1/2|^2 = (sum t x'^T + W R) (sum x' x'^T + R)^-1

with R a little damping and what the moments are shrunk by (`onnxmpq.weights.shrink`), and W' is rounded against x'.
With t = W x that is GPTAQ (Li et al. 2025, arXiv 2504.02692); where the layer's output only goes into a sum with a
shortcut, t also makes up for what the shortcut lost. A row of zeros stays one.

Both networks run along with the layers (`onnxmpq.weights.front`): a layer costs what lies between it and the last, but
one that sees a single window a sample needs all samples, from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from threadpoolctl import threadpool_limits

from onnxmpq.data import Dataset
from onnxmpq.engine import Array, Runtime, Session
from onnxmpq.model.modelfile import export_model, import_graph
from onnxmpq.model.subgraph import names_read
from onnxmpq.model.trace import Traced
from onnxmpq.observer import Progress
from onnxmpq.passes.emit_gram import EmitGram, cross_name, gram_name
from onnxmpq.plan import Plan
from onnxmpq.spec import Layer
from onnxmpq.turns import cores, in_turn
from onnxmpq.weights.aim import Aim, find_aim
from onnxmpq.weights.blocks import block_count, columns
from onnxmpq.weights.candidates import Candidates
from onnxmpq.weights.compensate import compensate
from onnxmpq.weights.front import Front, State, in_step
from onnxmpq.weights.gram import Doubles, centred, channel_major, has_moments, is_known, step
from onnxmpq.weights.quantizer import EVERY_GRID, Floats, Grids, QuantizedWeight
from onnxmpq.weights.rows import from_rows, to_rows
from onnxmpq.weights.shrink import diagonals, shrinkage, shrunk

_WINDOWS_A_COLUMN = 64  # neighbouring ones are much alike
_DAMPING = 0.01  # of the mean diagonal
_TARGET = "settle/target"


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Sums over windows: `gram` of x' x'^T [group, D, D], `cross` of t x'^T [group, rows, D], their means."""

    gram: Doubles
    cross: Doubles
    mean_input: Doubles  # [group, D]
    mean_target: Doubles  # [group, rows]
    count: float

    def centred(self) -> Fit:
        """Without the means, which a bias takes up."""
        mixed = self.mean_target[:, :, None] * self.mean_input[:, None, :]
        gram = centred(self.gram, self.mean_input, self.count)
        varies = np.einsum("gii->gi", gram) > 0
        cross = (self.cross - self.count * mixed) * varies[:, None, :]
        return Fit(gram, cross, self.mean_input, self.mean_target, self.count)


def settled(
    settler: Settler, layers: Sequence[Layer], plan: Plan, candidates: Candidates, progress: Progress
) -> Candidates:
    """The candidates with every layer of the plan rounded once more, in execution order."""
    after = candidates.copy()
    for done, layer in enumerate(layers):
        bits = plan[layer.name].weight_bits
        found = settler.settle(layer, bits) if 1 < bits <= 8 and _can_be_fitted(layer) else None
        if found is not None:
            after.settle(layer, *found)
        if layer.reason is None:
            settler.fix(after.constants(layer, bits))
        progress(done + 1, len(layers))
    return after


def _can_be_fitted(layer: Layer) -> bool:
    """Not in blocks: each would be fitted to a target that all of them give together."""
    return has_moments(layer) and block_count(layer) == 1


class Settler:
    """The float network and the quantized one side by side, the latter's layers settled so far."""

    def __init__(
        self,
        runtime: Runtime,
        model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        layers: Sequence[Layer],
        traced: Mapping[str, Traced],
        data: Dataset,
        batch_size: int,
        samples: int = 256,
        *,
        grids: Grids = EVERY_GRID,
    ) -> None:
        """`quantized` is `model` with Q/DQ pairs on its activations and its weights still in float.

        A layer sees at most so many `samples`, but for one that has a window a sample. `grids` are what the
        file may hold.
        """
        self._float, self._traced, self._grids = model, traced, grids
        self._quantized = onnx.ModelProto()
        self._quantized.CopyFrom(quantized)
        self._constants = {i.name: i for i in self._quantized.graph.initializer}
        self._changing = {
            name for la in layers for name in (la.weight, la.bias) if name and la.reason is None
        }
        self._runtime = runtime.on_one_thread()

        def fronts(seen: Dataset) -> tuple[Front, Front]:
            """One of the float network, one of the quantized."""
            first, second = (
                Front(self._runtime, some, traced, seen, batch_size) for some in (model, self._quantized)
            )
            return first, second

        self._some, self._all = fronts(data.some(samples).remembered()), fronts(data)

    def settle(self, layer: Layer, bits: int) -> tuple[QuantizedWeight, Floats | None] | None:
        """The layer's rounding at a width and what its bias gains; None where nothing can be fitted."""
        aim = find_aim(layer, self._float, self._quantized, self._traced)
        fit = self._fit(layer, aim) if aim is not None else None
        if aim is None or fit is None:
            return None
        weight = self._value(layer.weight).astype(np.float32)
        with threadpool_limits(limits=1):
            centred = fit.centred() if layer.bias is not None else fit
            wanted = from_rows(_wanted(to_rows(weight, layer), centred), layer).astype(np.float32)
        gram = shrunk(centred.gram, fit.count)
        rounded = compensate(wanted, layer, gram, [bits], self._grids)[bits]
        if layer.bias is None:
            return rounded, None
        reached = np.einsum("grd,gd->gr", to_rows(rounded.dequantize(), layer), fit.mean_input)
        shift = (fit.mean_target - reached).reshape(-1)
        if aim.includes_bias:
            shift -= self._value(layer.bias)
        return rounded, shift.astype(np.float32)

    def fix(self, constants: Mapping[str, Array]) -> None:
        """Let the quantized network compute with these constants from now on."""
        for name, value in constants.items():
            self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
            self._changing.discard(name)

    def _value(self, name: str) -> Array:
        value: Array = numpy_helper.to_array(next(i for i in self._float.graph.initializer if i.name == name))
        return value

    def _fit(self, layer: Layer, aim: Aim) -> Fit | None:
        """The sums over enough samples; None where the layer's inputs cannot be gathered."""
        for front in self._some:
            front.advance(self._changing)
        exact, front = self._all if math.prod(layer.positions) == 1 else self._some
        tapped = self._tapped(layer, aim, front)
        if tapped is None:
            return None
        expected = self._loaded(exact.part(exact.behind([aim.target]), [aim.target]).model)
        found = self._loaded(tapped)
        names = [gram_name(layer.weight), cross_name(layer.weight)]

        def sums(states: tuple[State, State]) -> list[Doubles]:
            target = expected.run(_fed(expected, states[0]))[aim.target]
            outputs = found.run(_fed(found, {**states[1], _TARGET: target}), names)
            return [outputs[name].astype(np.float64) for name in names]

        total: list[Doubles] = []
        for part in in_turn(sums, in_step(exact, front), cores()):
            total = [a + b for a, b in zip(total, part, strict=True)] if total else part
        return _checked(layer, front.data, *total)

    def _tapped(self, layer: Layer, aim: Aim, front: Front) -> onnx.ModelProto | None:
        """The quantized network up to the layer, with the sums as its outputs and the target as an input."""
        less = [aim.less] if aim.less else []
        reader = next(n for n in self._quantized.graph.node if layer.weight in names_read(n))
        minus = helper.make_node("Sub" if less else "Identity", [_TARGET, *less], [f"{_TARGET}/left"])
        nodes = [*front.behind([*reader.output, *less]), minus]
        part = front.part(nodes, [minus.output[0]], {_TARGET: self._traced[aim.target]})
        graph = import_graph(part.model)
        every = step(layer, front.data.count, _WINDOWS_A_COLUMN * columns(layer))
        emit = EmitGram({layer.weight: every}, {layer.weight: minus.output[0]})
        if not emit(graph):
            return None
        graph.outputs = graph.outputs[1:]
        return export_model(graph, part.model)

    def _loaded(self, model: onnx.ModelProto) -> Session:
        return self._runtime.session(model, spin=False, simulated=True)


def _fed(session: Session, values: State) -> dict[str, Array]:
    return {spec.name: values[spec.name] for spec in session.inputs}


def _checked(layer: Layer, data: Dataset, gram: Doubles, cross: Doubles) -> Fit | None:
    """The sums as a fit; None where they come from too few windows or are not finite."""
    count = float(gram[0, -1, -1])
    if not is_known(layer, count, data) or not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        return None
    order = channel_major(layer)
    gram, cross = gram[:, order][:, :, order], cross[:, :, order]
    return Fit(gram[:, :-1, :-1], cross[:, :, :-1], gram[:, -1, :-1] / count, cross[:, :, -1] / count, count)


def _wanted(rows: Floats, fit: Fit) -> Doubles:
    """The rows that give the target best; one of zeros, which only a bias stands behind, is not fitted to noise."""
    found: Doubles = np.where(rows.any(axis=2, keepdims=True), _solved(rows, fit), 0.0)
    return found


def _solved(rows: Floats, fit: Fit) -> Doubles:
    """The rows that give the target best, held to those they come from by the damping, the more the fewer windows."""
    diagonal = np.einsum("gii->gi", fit.gram).mean(axis=1)
    damping = _DAMPING * np.where(diagonal > 0, diagonal, 1.0)[:, None, None]
    part = shrinkage(fit.gram, fit.count)[:, None, None]
    held = damping * np.eye(fit.gram.shape[1]) + part / (1 - part) * diagonals(fit.gram)
    solved = np.linalg.solve(fit.gram + held, (fit.cross + rows @ held).transpose(0, 2, 1))
    return solved.transpose(0, 2, 1).astype(np.float64)
