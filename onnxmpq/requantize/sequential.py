"""The last rounding: each layer in turn against what it really gets, once all widths are known.

Behind quantized layers a layer's inputs x' are no longer those x that it was trained for. Its rows are first
fitted to give what the float network gives there, from what the quantized one feeds it,

    W' = argmin sum |t - W' x'|^2 + |(W' - W) R^1/2|^2 = (sum t x'^T + W R) (sum x' x'^T + R)^-1

with R some damping and what the moments are drawn to their diagonal by (`onnxmpq.rounding.shrink`), and W' is
rounded against x'. How much damping, each layer's two halves of the samples tell: what is fitted to one half should
give the other half's targets. With t = W x that is GPTAQ (Li et al. 2025, arXiv 2504.02692); where the layer's output
only goes into a sum with a shortcut, t also makes up for what the shortcut lost. A row of zeros stays one.

Both networks run along with the layers (`onnxmpq.requantize.activation_cache`): a layer costs what lies between it and the last, but
one that sees a single window a sample needs more of them, from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from threadpoolctl import threadpool_limits

from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.observer import Progress
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.subgraph import names_read
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.passes.expose.emit_gram import EmitGram, cross_name, gram_name
from onnxmpq.requantize.activation_cache import ActivationCache, CachedPair, State, held_samples
from onnxmpq.requantize.regression_target import RegressionTarget, find_regression_target
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.compensate import compensate
from onnxmpq.rounding.moments import (
    SAMPLES_OF_LARGE_MAPS,
    Moments,
    add_to,
    centred,
    channel_major,
    enough,
    has_moments,
    has_to_spare,
    is_known,
    map_windows,
    taken,
)
from onnxmpq.rounding.padded import NO_PADDED, Padded
from onnxmpq.rounding.rows import block_count, columns, from_rows, to_rows
from onnxmpq.rounding.shrink import diagonals, shrinkage, shrunk
from onnxmpq.runtime.ordered_pool import cores, map_in_threads
from onnxmpq.runtime.parts import part_session
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array, Doubles, Floats
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import QUANTIZED_BITS
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, QuantizedWeight

# Of 32, SqueezeNet learned what its samples have alone: KL on others 0.0315 for 0.0281.
_MOST_WINDOWS_A_COLUMN = 128
# Groups x windows x columns that cost little: a small matrix sees more windows.
_CHEAP_PRODUCTS = 1 << 20
_TIMES_FOR_ONE_WINDOW = 4
_FEWEST_OF_LARGE_MAPS = 16  # samples
_FEWEST_A_COLUMN = 16  # windows: with fewer the first rounding, which saw more samples, does better on others
DAMPINGS = (0.01, 0.1, 1.0, 10.0)  # of the mean diagonal
_ROWS_ASKED = 256  # for the damping
_HALVES = 2
_TARGET = "requantize/target"


class Fit(NamedTuple):
    """Sums over windows: `gram` of x' x'^T [group, D, D], `cross` of t x'^T [group, rows, D], of x' and t themselves."""

    gram: Doubles
    cross: Doubles
    inputs: Doubles  # [group, D]
    targets: Doubles  # [group, rows]
    windows: float

    @property
    def moments(self) -> Moments:
        """Of x'."""
        return Moments(self.gram, self.mean_input, self.windows)

    @property
    def mean_input(self) -> Doubles:
        return self.inputs / self.windows

    def centred(self) -> Fit:
        """Without the means, which a bias takes up."""
        gram = centred(self.gram, self.mean_input, self.windows)
        varies = np.einsum("gii->gi", gram) > 0
        mixed = self.targets[:, :, None] * self.mean_input[:, None, :]
        return self._replace(gram=gram, cross=(self.cross - mixed) * varies[:, None, :])


def requantized(
    requantizer: SequentialRequantizer,
    layers: Sequence[Layer],
    plan: Plan,
    candidates: Candidates,
    progress: Progress,
    *,
    same_kind: bool = False,
) -> Candidates:
    """The candidates with every layer of the plan rounded once more, in execution order.

    With `same_kind` codes of two bits stay odd, or others: their file then takes no more bytes.
    """
    after = candidates.copy()
    for done, layer in enumerate(layers):
        bits = plan[layer.name].weight_bits
        odd = candidates.quantized(layer, bits).odd if same_kind and bits == 2 else None
        found = requantizer.requantize(layer, bits, odd) if is_fitted(layer, bits) else None
        if found is not None:
            after.replace(layer, *found)
        if layer.reason is None:
            requantizer.fix(after.constants(layer, bits))
        progress(done + 1, len(layers))
    return after


def is_fitted(layer: Layer, bits: int) -> bool:
    """True for a layer of two to eight bits whose columns are rounded together.

    A block of columns alone cannot be fitted to what all of them give.
    """
    return 1 < bits <= QUANTIZED_BITS[-1] and has_moments(layer) and block_count(layer) == 1


class SequentialRequantizer:
    """The float network and the quantized one side by side, the latter's layers requantized so far."""

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
        seed: int,
        grids: Grids = EVERY_GRID,
        augmentations: Augmentations = NO_AUGMENTATION,
        padded: Padded = NO_PADDED,
    ) -> None:
        """`quantized` is `model` with Q/DQ pairs on its activations and its weights still in float.

        A layer sees at most so many `samples`, drawn by `seed`, in all `augmentations`, but for one that has a window a sample, which sees
        four times as many, and one of large maps, which sees few as they are, of which all that crosses the network is held. `grids` are what the file may hold; the windows of
        `padded` layers that are padding are not seen.
        """
        self._float, self._traced, self._grids, self._padded = model, traced, grids, padded
        self._quantized = onnx.ModelProto()
        self._quantized.CopyFrom(quantized)
        self._constants = {i.name: i for i in self._quantized.graph.initializer}
        self._changing = {
            name for la in layers for name in (la.weight, la.bias) if name and la.reason is None
        }
        self._runtime, self._batch_size = runtime.on_one_thread(), batch_size
        some = data.some(samples, seed).remembered()
        held = max(held_samples(data, model, traced), _FEWEST_OF_LARGE_MAPS)
        few = some.some(min(SAMPLES_OF_LARGE_MAPS, held), seed)
        self._some = self._over(some, augmentations)
        alike = few is some and augmentations == NO_AUGMENTATION
        self._few = self._some if alike else self._over(few, NO_AUGMENTATION)
        many = data.some(samples * _TIMES_FOR_ONE_WINDOW, seed)
        self._all = self._some if samples >= data.count else self._over(many, augmentations)

    def requantize(
        self, layer: Layer, bits: int, odd: bool | None = None
    ) -> tuple[QuantizedWeight, Floats | None] | None:
        """The layer's rounding at a width and what its bias gains; None where nothing can be fitted.

        Codes of two bits are of the kind that is better, or as `odd` says.
        """
        regression = find_regression_target(layer, self._float, self._quantized, self._traced)
        halves = self.fits(layer, regression) if regression is not None else []
        if regression is None or not halves:
            return None
        fit = Fit(*(reduce(add, sums) for sums in zip(*halves, strict=True)))
        rows = to_rows(self._value(layer.weight).astype(np.float32), layer)
        with threadpool_limits(limits=1):
            centre = layer.bias is not None
            damping = best_damping(rows, [half.centred() if centre else half for half in halves])
            del halves
            whole = fit.centred() if centre else fit
            wanted = _wanted(rows, whole, damping)
        gram = shrunk(whole.moments)
        weight = from_rows(wanted, layer).astype(np.float32)
        grids = self._grids if odd is None else replace(self._grids, odd=odd, even=not odd)
        rounded = compensate(weight, layer, gram, [bits], grids)[bits]
        if layer.bias is None:
            return rounded, None
        reached = np.einsum("grd,gd->gr", to_rows(rounded.dequantize(), layer), fit.mean_input)
        shift = (fit.targets / fit.windows - reached).reshape(-1)
        if regression.includes_bias:
            shift -= self._value(layer.bias)
        return rounded, shift.astype(np.float32)

    def fix(self, constants: Mapping[str, Array]) -> None:
        """Let the quantized network compute with these constants from now on."""
        for name, value in constants.items():
            self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
            self._changing.discard(name)

    def _over(self, data: Dataset, augmentations: Augmentations) -> CachedPair:
        """Both networks over the same samples, in two batches at least: each half tells of the other."""
        size = min(self._batch_size, -(-data.count // _HALVES))
        kept = [self._padded.padding.mask] if self._padded.padding else []
        exact, quantized = (
            ActivationCache(self._runtime, model, self._traced, data, size, augmentations, kept=kept)
            for model in (self._float, self._quantized)
        )
        return CachedPair(exact, quantized)

    def _value(self, name: str) -> Array:
        value: Array = numpy_helper.to_array(next(i for i in self._float.graph.initializer if i.name == name))
        return value

    def fits(self, layer: Layer, regression: RegressionTarget) -> list[Fit]:
        """The sums over each half of the samples (one where there is one batch).

        Nothing where they cannot be gathered, or are few of what the first rounding saw.
        """
        pair = self._pair(layer)
        exact, cache = pair.exact, pair.quantized
        windows = map_windows(layer, cache.data.count)
        if cache.data.count < self._all.quantized.data.count and windows < _FEWEST_A_COLUMN * columns(layer):
            return []
        if pair is not self._all or pair is self._some:
            pair.advance(self._changing)
        tapped = self._tapped(layer, regression, cache)
        if tapped is None:
            return []
        wanted = exact.part(exact.behind([regression.tensor]), [regression.tensor])
        expected = self._loaded(wanted.model)
        found = self._loaded(tapped)
        names = [gram_name(layer.weight), cross_name(layer.weight)]

        def sums(states: tuple[State, State]) -> list[Array]:
            target = expected.run(_fed(expected, states[0]))[regression.tensor]
            outputs = found.run(_fed(found, {**states[1], _TARGET: target}), names)
            return [outputs[name] for name in names]

        halves: dict[int, list[Doubles]] = {}
        for number, part in enumerate(map_in_threads(sums, pair.states(), cores())):
            half = halves.setdefault(number // cache.augmentations.count % _HALVES, [])
            add_to(half, part)
        fits = [
            _fit(layer, *(total / cache.augmentations.count for total in half)) for half in halves.values()
        ]
        return fits if _is_known(layer, cache.data, fits) else []

    def _pair(self, layer: Layer) -> CachedPair:
        """The networks over the samples that the layer sees."""
        if math.prod(layer.positions) == 1:
            return self._all
        spare = has_to_spare(layer, self._few.quantized.data.count, _enough(layer))
        return self._few if spare else self._some

    def _tapped(
        self, layer: Layer, regression: RegressionTarget, cache: ActivationCache
    ) -> onnx.ModelProto | None:
        """The quantized network up to the layer, with the sums as its outputs and the target as an input."""
        less = [regression.less] if regression.less else []
        reader = next(n for n in self._quantized.graph.node if layer.weight in names_read(n))
        minus = helper.make_node("Sub" if less else "Identity", [_TARGET, *less], [f"{_TARGET}/left"])
        nodes = [*cache.behind([*reader.output, *less]), minus, *_reading(self._padded)]
        part = cache.part(nodes, [minus.output[0]], {_TARGET: self._traced[regression.tensor]})
        graph = import_graph(part.model)
        emit = EmitGram(
            {layer.weight: taken(layer, cache.data.count, _enough(layer))},
            {layer.weight: minus.output[0]},
            padding=self._padded.padding,
            padded=self._padded.weights,
        )
        if not emit(graph):
            return None
        graph.outputs = graph.outputs[1:]
        return export_model(graph, part.model)

    def _loaded(self, model: onnx.ModelProto) -> Session:
        return part_session(self._runtime, model, self._quantized, simulated=True)


def _reading(padded: Padded) -> list[onnx.NodeProto]:
    """What makes the mask an input of a part."""
    mask = [padded.padding.mask] if padded.padding else []
    return [helper.make_node("Identity", [name], [f"{_TARGET}/mask"]) for name in mask]


def _fed(session: Session, values: State) -> dict[str, Array]:
    return {spec.name: values[spec.name] for spec in session.inputs}


def _enough(layer: Layer) -> int:
    """How many windows a layer is requantized on where there are as many."""
    return enough(layer, _CHEAP_PRODUCTS, _MOST_WINDOWS_A_COLUMN)


def _fit(layer: Layer, gram: Doubles, cross: Doubles) -> Fit:
    """The sums as the graph gives them, with those of a one behind every window."""
    order = channel_major(layer)
    gram, cross = gram[:, order][:, :, order], cross[:, :, order]
    return Fit(
        gram[:, :-1, :-1], cross[:, :, :-1], gram[:, -1, :-1], cross[:, :, -1], float(gram[0, -1, -1]),
    )  # fmt: skip


def _is_known(layer: Layer, data: Dataset, halves: Sequence[Fit]) -> bool:
    """False where the sums come from too few windows or are not finite."""
    finite = all(np.isfinite(half.gram).all() and np.isfinite(half.cross).all() for half in halves)
    return finite and is_known(layer, sum(half.windows for half in halves), data)


def best_damping(rows: Floats, halves: Sequence[Fit]) -> float:
    """The one with which the rows that are fitted to each half of the samples give the other half's targets best."""
    if len(halves) < _HALVES:
        return DAMPINGS[0]
    every = -(-rows.shape[1] // _ROWS_ASKED)
    rows, halves = rows[:, ::every], [half._replace(cross=half.cross[:, ::every]) for half in halves]
    pairs = (halves, halves[::-1])
    return min(DAMPINGS, key=lambda d: sum(_unseen(_wanted(rows, fit, d), other) for fit, other in pairs))


def _unseen(rows: Doubles, fit: Fit) -> float:
    """Squared error of the rows over these windows, less that of rows of zeros."""
    return float(np.vdot(rows @ fit.gram - 2 * fit.cross, rows))


def _wanted(rows: Floats, fit: Fit, damping: float) -> Doubles:
    """The rows that give the target best; one of zeros, which only a bias stands behind, is not fitted to noise."""
    found: Doubles = np.where(rows.any(axis=2, keepdims=True), solved_rows(rows, fit, damping), 0.0)
    return found


def solved_rows(rows: Floats, fit: Fit, share: float) -> Doubles:
    """The rows that give the target best, held to those they come from by the damping, the more the fewer windows."""
    diagonal = np.einsum("gii->gi", fit.gram).mean(axis=1)
    damping = share * np.where(diagonal > 0, diagonal, 1.0)[:, None, None]
    part = shrinkage(fit.moments)
    held = damping * np.eye(fit.gram.shape[1]) + (part / (1 - part))[:, None, None] * diagonals(fit.gram)
    solved = np.linalg.solve(fit.gram + held, (fit.cross + rows @ held).transpose(0, 2, 1))
    return solved.transpose(0, 2, 1).astype(np.float64)
