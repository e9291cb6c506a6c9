"""The last rounding: each layer in turn against what it really gets, once all widths are known.

Behind quantized layers a layer's inputs x' are no longer those x that it was trained for. Its rows are first
fitted to give what the float network gives there, from what the quantized one feeds it,

    W' = argmin sum |t - W' x'|^2 + |(W' - W) R^1/2|^2 = (sum t x'^T + W R) (sum x' x'^T + R)^-1

with R a little damping and what the moments are shrunk by (`onnxmpq.weights.shrink`), and W' is rounded against x'.
With t = W x that is GPTAQ (Li et al. 2025, arXiv 2504.02692); where the layer's output only goes into a sum with a
shortcut, t also makes up for what the shortcut lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from threadpoolctl import threadpool_limits

from onnxmpq.data import Batch, Dataset
from onnxmpq.engine import Array, Runtime, Session
from onnxmpq.model.modelfile import export_model, import_graph
from onnxmpq.model.subgraph import ancestors, extract, names_read
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
from onnxmpq.weights.gram import Doubles, centred, channel_major, has_moments, is_known, step
from onnxmpq.weights.quantizer import EVERY_GRID, Floats, Grids, QuantizedWeight
from onnxmpq.weights.rows import from_rows, to_rows
from onnxmpq.weights.shrink import diagonals, shrinkage, shrunk

_WINDOWS_A_COLUMN = 64  # neighbouring ones are much alike
_LEAST = 96  # samples, however many windows they hold
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
        self._runtime, self._traced, self._batch_size = runtime.on_one_thread(), traced, batch_size
        self._all, self._some = data, _part(data, samples).remembered()
        self._float, self._grids = model, grids
        self._quantized = onnx.ModelProto()
        self._quantized.CopyFrom(quantized)
        self._constants = {i.name: i for i in self._quantized.graph.initializer}

    def settle(self, layer: Layer, bits: int) -> tuple[QuantizedWeight, Floats | None] | None:
        """The layer's rounding at a width and what its bias gains; None where nothing can be fitted."""
        aim = find_aim(layer, self._float, self._quantized, self._traced)
        fit = self._fit(layer, aim) if aim is not None else None
        if aim is None or fit is None:
            return None
        weight = self._value(layer.weight).astype(np.float32)
        with threadpool_limits(limits=1):
            centred = fit.centred() if layer.bias is not None else fit
            wanted = from_rows(_solved(to_rows(weight, layer), centred), layer).astype(np.float32)
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

    def _value(self, name: str) -> Array:
        value: Array = numpy_helper.to_array(next(i for i in self._float.graph.initializer if i.name == name))
        return value

    def _fit(self, layer: Layer, aim: Aim) -> Fit | None:
        """The sums over enough samples; None where the layer's inputs cannot be gathered."""
        data = self._samples(layer)
        tapped = self._tapped(layer, aim, data.count)
        if tapped is None:
            return None
        nodes = ancestors(self._float.graph.node, [aim.target])
        expected = self._loaded(extract(self._float, nodes, [aim.target], self._traced).model)
        found = self._loaded(tapped)
        names = [gram_name(layer.weight), cross_name(layer.weight)]

        def sums(batch: Batch) -> list[Doubles]:
            target = expected.run(_fed(expected, batch.feeds))[aim.target]
            outputs = found.run(_fed(found, {**batch.feeds, _TARGET: target}), names)
            return [outputs[name].astype(np.float64) for name in names]

        total: list[Doubles] = []
        for part in in_turn(sums, data.batches(self._batch_size), cores()):
            total = [a + b for a, b in zip(total, part, strict=True)] if total else part
        return _checked(layer, data, *total)

    def _samples(self, layer: Layer) -> Dataset:
        """As many samples as hold enough windows, within what the effort allows; all where each holds one window."""
        if math.prod(layer.positions) == 1:
            return self._all
        windows = _WINDOWS_A_COLUMN * columns(layer)
        return _part(self._some, max(_LEAST, math.ceil(windows / math.prod(layer.positions))))

    def _tapped(self, layer: Layer, aim: Aim, samples: int) -> onnx.ModelProto | None:
        """The quantized network up to the layer, with the sums as its outputs and the target as an input."""
        nodes = list(self._quantized.graph.node)
        reader = next(n for n in nodes if layer.weight in names_read(n))
        wanted = [*reader.output, *([aim.less] if aim.less else [])]
        types = {**self._traced, _TARGET: self._traced[aim.target]}
        minus = helper.make_node(
            "Sub" if aim.less else "Identity",
            [_TARGET, *([aim.less] if aim.less else [])],
            [f"{_TARGET}/left"],
        )
        part = extract(self._quantized, [*ancestors(nodes, wanted), minus], [minus.output[0]], types)
        graph = import_graph(part.model)
        if not EmitGram({layer.weight: step(layer, samples)}, {layer.weight: minus.output[0]})(graph):
            return None
        graph.outputs = graph.outputs[1:]
        return export_model(graph, part.model)

    def _loaded(self, model: onnx.ModelProto) -> Session:
        return self._runtime.session(model, spin=False, simulated=True)


def _part(data: Dataset, count: int) -> Dataset:
    """So many of the samples at random, always the same; all where there are no more."""
    return data if count >= data.count or not data.divides else data.split(count / data.count, 0)[1]


def _fed(session: Session, values: Mapping[str, Array]) -> dict[str, Array]:
    return {spec.name: values[spec.name] for spec in session.inputs}


def _checked(layer: Layer, data: Dataset, gram: Doubles, cross: Doubles) -> Fit | None:
    """The sums as a fit; None where they come from too few windows or are not finite."""
    count = float(gram[0, -1, -1])
    if not is_known(layer, count, data) or not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        return None
    order = channel_major(layer)
    gram, cross = gram[:, order][:, :, order], cross[:, :, order]
    return Fit(gram[:, :-1, :-1], cross[:, :, :-1], gram[:, -1, :-1] / count, cross[:, :, -1] / count, count)


def _solved(rows: Floats, fit: Fit) -> Doubles:
    """The rows that give the target best, held to those they come from by the damping, the more the fewer windows."""
    diagonal = np.einsum("gii->gi", fit.gram).mean(axis=1)
    damping = _DAMPING * np.where(diagonal > 0, diagonal, 1.0)[:, None, None]
    part = shrinkage(fit.gram, fit.count)[:, None, None]
    held = damping * np.eye(fit.gram.shape[1]) + part / (1 - part) * diagonals(fit.gram)
    solved = np.linalg.solve(fit.gram + held, (fit.cross + rows @ held).transpose(0, 2, 1))
    return solved.transpose(0, 2, 1).astype(np.float64)
