"""Second moments of layer inputs as additional graph outputs: sum over samples and positions of x x^T.

x is the vector that one output value of a layer is a product of the weight with, and a 1 behind it: the unfolded
window of a Conv (one group of it), say, or the row of a Gemm, as its operator says (`onnxmpq.operators`).
The 1 makes the last row of the matrix the sum of the x, and its last entry their number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS, readers
from onnxmpq.operators.windows import FLOAT, reshaped
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import NoMatch, require
from onnxmpq.passes.node_builder import builders
from onnxmpq.values.padding import Padding

_Reader = tuple[gs.Node, int]  # a node, and the place of the weight among its inputs

_LOGGER = logging.getLogger(__name__)


class Taken(NamedTuple):
    """Which windows are taken: every `step`-th one along each spatial axis, and of these `every` so many-th one."""

    step: int = 1
    every: int = 1


EVERY_WINDOW = Taken()


@dataclass(frozen=True, slots=True)
class EmitGram:
    """Add `gram_name(weight)`, float32 [group, D + 1, D + 1], for each layer of the main graph with a named weight.

    `weights` maps each weight to which of its windows are taken.

    D counts a window tap by tap: tap t of channel c of the group is number t * channels + c. A weight that
    several nodes read gets the sum of theirs.

    `channels` says how many input channels of a group make a block, all where it says nothing. Of several blocks
    each gets a matrix as if it were a group, [group * blocks, D_b + 1, D_b + 1]: the diagonal of the whole. The last
    block is filled up with channels of zeros.

    `targets` names a tensor of the shape of a layer's output: `cross_name(weight)`, float32 [group, rows, D + 1],
    is then the sum of t x^T over the same windows, t being the target at each one's place (operators with
    `targets`, of a weight that one node reads, in one block).

    Of the weights in `padded`, whose windows are the positions of samples, what `padding` says is none counts nowhere, not
    as a 1 either. Exposing: what the graph gave before stays bit-equal.
    """

    weights: Mapping[str, Taken]
    targets: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    padding: Padding | None = None
    padded: Collection[str] = ()

    def __call__(self, graph: gs.Graph) -> bool:
        present = {tensor.name for tensor in graph.outputs}
        emit = Emitter(builders(graph)[0])
        tensors = graph.tensors() if self.targets or self.padded else {}
        changed = False
        for weight, taken in self.weights.items():
            found = [r for r in readers(graph, weight) if OPERATORS[r[0].op].windows is not None]
            if gram_name(weight) in present or not found:
                continue
            if len({OPERATORS[node.op].layout(node, place) for node, place in found}) > 1:
                _LOGGER.debug("no second moments for %s: its readers differ in their windows", weight)
                continue
            blocks = _blocks(*found[0], self.channels.get(weight))
            target = tensors.get(self.targets.get(weight, ""))
            try:
                self._expose(emit, found, blocks, taken, target, self._kept(emit, weight, tensors))
            except NoMatch as reason:
                _LOGGER.debug("no Gram matrix for %s: %s", weight, reason)
                continue
            changed = True
        if changed:
            graph.toposort()
        return changed

    def _kept(self, e: Emitter, weight: str, tensors: Mapping[str, gs.Tensor]) -> gs.Tensor | None:
        """1 for each window that counts, else 0, float32 [1, 1, n]; None where all do."""
        if self.padding is None or weight not in self.padded:
            return None
        mask = reshaped(e, e("Cast", tensors[self.padding.mask], to=FLOAT), 1, 1, -1)
        return e("Sub", 1.0, mask) if self.padding.padded else mask

    @staticmethod
    def _expose(
        e: Emitter,
        nodes: Sequence[_Reader],
        blocks: _Blocks,
        taken: Taken,
        target: gs.Tensor | None,
        kept: gs.Tensor | None,
    ) -> None:
        node, place = nodes[0]
        weight, build = node.inputs[place].name, e.builder
        require(target is None or len(nodes) == 1, "a target is for a weight that one node reads")
        require(target is None or blocks.count == 1, "a target is for a weight in one block")
        targets = OPERATORS[node.op].targets
        require(target is None or targets is not None, "its outputs are sums over several windows")
        columns = [_columns(e, *reader, blocks, taken.step) for reader in nodes]
        columns = columns if kept is None else [e("Mul", c, kept) for c in columns]
        columns = [_thinned(e, some, taken) for some in columns]
        turned = [e("Transpose", c, perm=[0, 2, 1]) for c in columns]
        products = [e("MatMul", *pair) for pair in zip(columns, turned, strict=True)]
        output = gs.Variable(gram_name(weight), np.float32, (blocks.matrices, blocks.width, blocks.width))
        build.into(output, "Sum", products)
        build.graph.outputs.append(output)
        if target is not None and targets is not None:
            places = _thinned(e, targets(e, node, place, target, taken.step), taken)
            cross = gs.Variable(cross_name(weight), np.float32, (blocks.matrices, None, blocks.width))
            build.into(cross, "MatMul", [places, turned[0]])
            build.graph.outputs.append(cross)


def gram_name(weight: str) -> str:
    """The name of the graph output that holds the Gram matrix of a weight's layer."""
    return f"{weight}/gram"


def cross_name(weight: str) -> str:
    """The name of the graph output that holds the products of a layer's target and its inputs."""
    return f"{weight}/cross"


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A window's columns: `group` times `channels` of `taps` each, `size` channels a block."""

    group: int
    channels: int
    taps: int
    size: int

    @property
    def count(self) -> int:
        """Blocks of a group."""
        return math.ceil(self.channels / self.size)

    @property
    def missing(self) -> int:
        """Channels of zeros that fill up the last block."""
        return self.count * self.size - self.channels

    @property
    def matrices(self) -> int:
        return self.group * self.count

    @property
    def width(self) -> int:
        """D_b + 1."""
        return self.size * self.taps + 1


def _blocks(node: gs.Node, place: int, size: int | None) -> _Blocks:
    """What an output value of the node is a sum over, in blocks of so many channels, or all in one."""
    layout, weight = OPERATORS[node.op].layout(node, place), node.inputs[place]
    columns = math.prod(int(weight.shape[axis]) for axis in layout.columns)
    channels = columns // (layout.group if 0 in layout.columns else 1) // layout.taps
    return _Blocks(layout.group, channels, layout.taps, size or channels)


def _columns(e: Emitter, node: gs.Node, place: int, blocks: _Blocks, step: int) -> gs.Variable:
    """What one node's windows hold, and a 1: [group * blocks, D_b + 1, n]."""
    layout, windows = OPERATORS[node.op].layout(node, place), OPERATORS[node.op].windows
    if windows is None or layout.blind is not None:
        raise NoMatch(layout.blind or "it has no windows")
    split = [_split(e, tap, blocks) for tap in windows(e, node, place, step)]
    return e("Concat", *split, _ones(e, split[0]), axis=1)


def _thinned(e: Emitter, windows: gs.Variable, taken: Taken) -> gs.Variable:
    """Of windows [..., n] those that are taken."""
    if taken.every == 1:
        return windows
    last, end = e.ints([2]), e.ints([np.iinfo(np.int64).max])
    return e("Slice", windows, e.ints([0]), end, last, e.ints([taken.every]))


def _split(e: Emitter, tap: gs.Tensor, blocks: _Blocks) -> gs.Tensor:
    """One tap [group * channels, N, *positions] as [group * blocks, size, N * positions]; N may be zero."""
    if blocks.missing:
        whole = reshaped(e, tap, blocks.group, blocks.channels, -1)
        tap = e.padded(whole, [0, 0, 0], [0, blocks.missing, 0])
    return reshaped(e, tap, blocks.matrices, blocks.size, -1)


def _ones(e: Emitter, rows: gs.Tensor) -> gs.Variable:
    """A row of ones for [group * blocks, size, n], whatever n is in this run.

    It comes from the data: of known shape, the runtime would hold it as a constant of that size.
    """
    return e("Clip", e("Slice", rows, e.ints([0]), e.ints([1]), e.ints([1])), 1.0, 1.0)
