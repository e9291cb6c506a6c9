"""Second moments of layer inputs over the calibration data, in a stream and within a bound of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations, Feeds
from onnxmpq.observer import Progress
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gram import EmitGram, Taken, gram_name
from onnxmpq.rounding.padded import NO_PADDED, Padded
from onnxmpq.rounding.rows import MOST_COLUMNS, block_channels, block_columns, block_count, columns
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.runtime.workers import HERE, Opened, Workers, opened
from onnxmpq.values.arrays import Array, Doubles
from onnxmpq.values.layer import Layer
from onnxmpq.values.runs import runs

_BYTES_A_PASS = 512 << 20
_WINDOWS_A_COLUMN = 16  # enough to know a matrix of D columns by; a map may hold a thousand times as many
_PRODUCTS = (
    1 << 20
)  # groups x windows x columns that cost nothing worth saving: a small matrix sees more windows
_FEWEST_WINDOWS = 4096  # neighbouring ones are much alike, and those of a sample
SAMPLES_OF_LARGE_MAPS, _TO_SPARE, _SEED = (
    128,
    2,
    0,
)  # where these hold so many times the windows that a layer needs
_SHARE_A_COLUMN = 1 / 16  # of a window: fewer tell less than that errors should cancel
_FEWEST_SAMPLES = 4  # the windows of one sample are much alike
_NOISE = 1e-6  # of a column's energy: what float32 sums leave of a constant one


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What a layer's inputs x are like: `gram` = sum x x^T [group, D, D], `mean` = E[x] [group, D], `count` of x.

    A window is counted channel by channel, as the weight is. Above 4,096 columns each block of input channels
    (`onnxmpq.rounding.rows`) stands as a group of its own: [group * blocks, D_b, D_b].
    """

    gram: Doubles
    mean: Doubles
    count: float

    def centred(self) -> Moments:
        """The same of x - mean: what is left where the bias takes up the mean."""
        left = centred(self.gram, self.mean, self.count)
        return replace(self, gram=left, mean=np.zeros_like(self.mean))


def centred(gram: Doubles, mean: Doubles, count: float) -> Doubles:
    """The moments [group, D, D] without the means [group, D] of `count` windows; a constant column is left with none.

    What rounding leaves of a constant is of either sign, and would count as a column of its own correlations.
    """
    left = gram - count * mean[:, :, None] * mean[:, None, :]
    varies = np.einsum("gii->gi", left) > _NOISE * np.einsum("gii->gi", gram)
    kept: Doubles = left * varies[:, :, None] * varies[:, None, :]
    return kept


def has_moments(layer: Layer) -> bool:
    """False for layers in control-flow bodies, left alone, without windows, or with more than 4,096 taps a channel."""
    free = layer.reason is None and not layer.weights_only
    return free and layer.layout.blind is None and block_columns(layer) <= MOST_COLUMNS


def map_windows(layer: Layer, samples: int) -> int:
    """How many windows lie in the layer's maps of so many samples; a matrix is taken to see one a sample."""
    return math.prod(layer.positions) * samples


def enough(layer: Layer, products: int = _PRODUCTS, a_column: int = _WINDOWS_A_COLUMN) -> int:
    """How many windows a layer's matrices need to be known by: so many a column, more where these products allow it."""
    return max(products // (layer.group * columns(layer)), a_column * block_columns(layer), _FEWEST_WINDOWS)


def is_known(layer: Layer, count: float, data: Dataset) -> bool:
    """Whether so many windows over the data tell anything of a layer's inputs, shrunk as they are to be.

    Of noise in the place of data, and of a few samples, as many are wanted as there are columns: what is learned
    from fewer holds on others of their kind only (`onnxmpq.rounding.shrink`).
    """
    few = data.synthetic or data.count < _FEWEST_SAMPLES
    return count >= max(2, block_columns(layer) * (1 if few else _SHARE_A_COLUMN))


def taken(layer: Layer, samples: int, wanted: int) -> Taken:
    """Which windows are sampled, so that about as many as wanted remain: along each axis first, and then of all.

    How many of all shares no factor with the rows of the map, or windows would stay in the same columns.
    """
    surplus = map_windows(layer, samples) / wanted
    step = max(1, math.floor(surplus ** (1 / len(layer.positions)))) if layer.positions else 1
    left = surplus / step ** len(layer.positions)
    every, places = max(1, round(left)), math.prod(math.ceil(size / step) for size in layer.positions)
    while math.gcd(every, places) > 1:
        every -= 1
    return Taken(step, every)


def input_moments(
    runtime: Runtime,
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    data: Dataset,
    batch_size: int,
    progress: Progress,
    augmentations: Augmentations = NO_AUGMENTATION,
    padded: Padded = NO_PADDED,
    workers: Workers = HERE,
) -> Iterator[tuple[Layer, Moments]]:
    """(layer, moments) for every layer that has them, in passes over the data whose matrices fit in memory.

    Of large maps only so many windows of few samples are taken, evenly spaced, as the matrix needs; of padding none.
    """
    passes = _passes(filter(has_moments, layers), data)
    total, done = sum(seen.count for _, seen in passes), 0
    for some, seen in passes:

        def report(now: int, before: int = done) -> None:
            progress(before + now, total)

        sums = _sums(runtime, model, some, seen, batch_size, report, augmentations, padded, workers)
        done += seen.count
        for layer in some:
            gram = sums.pop(gram_name(layer.weight), None)
            # No windows, or an overflow, tell nothing.
            if gram is not None and is_known(layer, gram[0, -1, -1], seen) and np.isfinite(gram).all():
                order = channel_major(layer)
                yield layer, _moments(gram[:, order][:, :, order])


def has_to_spare(layer: Layer, samples: int, wanted: int) -> bool:
    """True where the maps of so many samples hold so many windows that they need not be dense."""
    return map_windows(layer, samples) >= _TO_SPARE * wanted


def _passes(layers: Iterable[Layer], data: Dataset) -> list[tuple[list[Layer], Dataset]]:
    """The layers whose matrices fit in memory together, and the samples that these see: few where their maps are large."""
    few = data.some(SAMPLES_OF_LARGE_MAPS, _SEED)
    return [
        (some, few if count < data.count else data)
        for some, count in passes_over(layers, data.count, few.count)
    ]


def passes_over(layers: Iterable[Layer], samples: int, few: int) -> list[tuple[list[Layer], int]]:
    """The layers of each pass, and how many of the samples it takes: few of them, or all."""
    spare: dict[bool, list[Layer]] = {True: [], False: []}
    for layer in layers:
        spare[few < samples and has_to_spare(layer, few, enough(layer))].append(layer)
    return [
        (some, few if is_spare else samples)
        for is_spare, own in spare.items()
        for some in runs(own, _bytes, _BYTES_A_PASS)
    ]


def _sums(
    runtime: Runtime,
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    data: Dataset,
    batch_size: int,
    progress: Callable[[int], None],
    augmentations: Augmentations,
    padded: Padded,
    workers: Workers,
) -> dict[str, Doubles]:
    """The layers' matrices summed over the data, by the names of the outputs that give them."""
    emit = EmitGram(
        {la.weight: taken(la, data.count, enough(la)) for la in layers},
        channels={la.weight: block_channels(la) for la in layers},
        padding=padded.padding,
        padded=padded.weights,
    )
    emitted = _emitted(model, emit)
    return (
        {}
        if emitted is None
        else _summed(Grams(runtime, emitted), workers, data, batch_size, progress, augmentations)
    )


def _emitted(model: onnx.ModelProto, emit: EmitGram) -> onnx.ModelProto | None:
    """The model with what is emitted as its only outputs; None where nothing is."""
    graph = import_graph(model)
    emit(graph)
    names = {gram_name(weight) for weight in emit.weights}
    graph.outputs = [output for output in graph.outputs if output.name in names]
    return export_model(graph, model) if graph.outputs else None


@dataclass(frozen=True)
class Grams(Opened):
    """A batch's matrices by the names of the outputs that give them."""

    runtime: Runtime
    model: onnx.ModelProto

    @opened
    def session(self) -> Session:
        return self.runtime.on_one_thread().session(self.model, spin=False)

    def __call__(self, fed: tuple[int, Feeds]) -> tuple[int, dict[str, Array]]:
        return fed[0], self.session.run(fed[1])


def _summed(
    work: Grams,
    workers: Workers,
    data: Dataset,
    batch_size: int,
    progress: Callable[[int], None],
    augmentations: Augmentations,
) -> dict[str, Doubles]:
    """The matrices summed over the data, in double precision, the mean over their augmentations."""
    order = [output.name for output in work.model.graph.output]
    sums: list[Doubles] = []
    done = 0
    fed = ((b.count, feeds) for b in data.batches(batch_size) for feeds in augmentations.of(b.feeds))
    for count, outputs in workers.map(
        work, fed, name=lambda fed: f"a batch of {fed[0]} samples, whose moments are summed"
    ):
        add_to(sums, [outputs[name] for name in order])
        done += count
        progress(done // augmentations.count)
    return {
        name: np.divide(total, augmentations.count, out=total)
        for name, total in zip(order, sums, strict=True)
    }


def add_to(sums: list[Doubles], values: Sequence[Array]) -> None:
    """Add to each sum its value, in place: a batch's matrices are large, and often more than what makes them."""
    if not sums:
        sums.extend(value.astype(np.float64) for value in values)
        return
    for total, value in zip(sums, values, strict=True):
        np.add(total, value, out=total)


def _moments(total: Doubles) -> Moments:
    count = float(total[0, -1, -1])
    return Moments(total[:, :-1, :-1], total[:, -1, :-1] / count, count)


def channel_major(layer: Layer) -> NDArray[np.intp]:
    """Where the entries of a window are that was counted tap by tap, channel by channel, the 1 kept last."""
    size = block_columns(layer)
    windows = np.arange(size).reshape(-1, block_channels(layer)).T.ravel()
    return np.append(windows, size)


def _bytes(layer: Layer) -> int:
    """Those of its matrices: the sum in float64 and a batch's in float32."""
    return 12 * layer.group * block_count(layer) * block_columns(layer) ** 2
