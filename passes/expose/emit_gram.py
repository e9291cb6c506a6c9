"""Second moments of layer inputs as additional graph outputs: sum over samples and positions of x x^T.

x is the vector that one output value of a layer is a product of the weight with, and a 1 behind it: the
unfolded window of a Conv (one group of it), the row of a Gemm or MatMul, the input channels of a ConvTranspose.
The 1 makes the last row of the matrix the sum of the x, and its last entry their number.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import NoMatch, is_standard, require
from onnxmpq.passes.node_builder import NodeBuilder, builders
from onnxmpq.values.layer import LAYER_OPS

_LOGGER = logging.getLogger(__name__)
_FLOAT = 1  # TensorProto.FLOAT
_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class EmitGram:
    """Add `gram_name(weight)`, float32 [group, D + 1, D + 1], for each layer of the main graph with a named weight.

    `weights` maps each weight to the step at which windows are taken along every spatial axis: 1 takes all of
    them, 3 every third one in each direction.

    D counts a window tap by tap: tap t of channel c of the group is number t * channels + c. A weight that
    several nodes read gets the sum of theirs.

    `channels` says how many input channels of a group make a block, all where it says nothing. Of several blocks
    each gets a matrix as if it were a group, [group * blocks, D_b + 1, D_b + 1]: the diagonal of the whole. The last
    block is filled up with channels of zeros.

    `targets` names a tensor of the shape of a layer's output: `cross_name(weight)`, float32 [group, rows, D + 1],
    is then the sum of t x^T over the same windows, t being the target at each one's place (Conv, Gemm and MatMul
    that one node reads, in one block). Exposing: what the graph gave before stays bit-equal.
    """

    weights: Mapping[str, int]
    targets: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)

    name: ClassVar[str] = "emit-gram"

    def __call__(self, graph: gs.Graph) -> bool:
        """Edit `graph` in place; True if it changed."""
        present = {tensor.name for tensor in graph.outputs}
        builder = builders(graph)[0]
        tensors = graph.tensors() if self.targets else {}
        changed = False
        for weight, step in self.weights.items():
            readers = [n for n in graph.nodes if _reads(n, weight)]
            if gram_name(weight) in present or not readers:
                continue
            windows = {_window(node) for node in readers}
            if len(windows) > 1:
                _LOGGER.debug("no second moments for %s: its readers differ in their windows", weight)
                continue
            blocks = _Blocks.of(*windows.pop(), self.channels.get(weight))
            target = tensors.get(self.targets.get(weight, ""))
            try:
                self._expose(graph, builder, readers, blocks, step, target)
            except NoMatch as reason:
                _LOGGER.debug("no Gram matrix for %s: %s", weight, reason)
                continue
            changed = True
        if changed:
            graph.toposort()
        return changed

    @staticmethod
    def _expose(
        graph: gs.Graph,
        builder: NodeBuilder,
        readers: Sequence[gs.Node],
        blocks: _Blocks,
        step: int,
        target: gs.Tensor | None,
    ) -> None:
        weight = readers[0].inputs[1].name
        require(target is None or len(readers) == 1, "a target is for a weight that one node reads")
        require(target is None or blocks.count == 1, "a target is for a weight in one block")
        places = None if target is None else _places(builder, readers[0], target, step)
        columns = [_columns(builder, node, blocks, step) for node in readers]
        turned = [builder.node("Transpose", [c], "gram", {"perm": [0, 2, 1]}) for c in columns]
        products = [builder.node("MatMul", pair, "gram") for pair in zip(columns, turned, strict=True)]
        output = gs.Variable(gram_name(weight), np.float32, (blocks.matrices, blocks.width, blocks.width))
        builder.into(output, "Sum", products)
        graph.outputs.append(output)
        if places is not None:
            cross = gs.Variable(cross_name(weight), np.float32, (blocks.matrices, None, blocks.width))
            builder.into(cross, "MatMul", [places, turned[0]])
            graph.outputs.append(cross)


def _reads(node: gs.Node, weight: str) -> bool:
    """True where the node multiplies what it is given with this weight on the right."""
    is_layer = node.op in LAYER_OPS and is_standard(node)
    return is_layer and len(node.inputs) > 1 and node.inputs[1].name == weight


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

    @staticmethod
    def of(group: int, channels: int, taps: int, size: int | None) -> _Blocks:
        return _Blocks(group, channels, taps, size or channels)

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


def _window(node: gs.Node) -> tuple[int, int, int]:
    """What an output value is a sum over: the groups, the input channels of one, and the taps of a channel."""
    weight, group = [int(n) for n in node.inputs[1].shape], int(node.attrs.get("group", 1))
    if node.op == "Conv":
        return group, weight[1], math.prod(weight[2:])
    if node.op == "ConvTranspose":
        return group, weight[0] // group, 1
    return 1, weight[1 if node.attrs.get("transB", 0) else 0], 1


def _columns(builder: NodeBuilder, node: gs.Node, blocks: _Blocks, step: int) -> gs.Variable:
    """What one node's windows hold, and a 1: [group * blocks, D_b + 1, n]."""
    read = {"Conv": _windows, "ConvTranspose": _channels, "Gemm": _rows, "MatMul": _rows}[node.op]
    split = [_split(builder, tap, blocks) for tap in read(builder, node, step)]
    rows = [*split, _ones(builder, split[0])]
    return builder.node("Concat", rows, "gram", {"axis": 1})


def _split(builder: NodeBuilder, tap: gs.Tensor, blocks: _Blocks) -> gs.Tensor:
    """One tap [group * channels, N, *positions] as [group * blocks, size, N * positions]; N may be zero."""

    def reshaped(tensor: gs.Tensor, *shape: int) -> gs.Tensor:
        return builder.node(
            "Reshape", [tensor, builder.constant("gram_shape", np.array(shape, np.int64))], "gram"
        )

    if blocks.missing:
        fill = builder.constant("gram_pads", np.array([0, 0, 0, 0, blocks.missing, 0], np.int64))
        tap = builder.node("Pad", [reshaped(tap, blocks.group, blocks.channels, -1), fill], "gram")
    return reshaped(tap, blocks.matrices, blocks.size, -1)


def _places(builder: NodeBuilder, node: gs.Node, target: gs.Tensor, step: int) -> gs.Variable:
    """The target where the windows are: [group, rows, n]."""
    weight = node.inputs[1]
    require(node.op != "ConvTranspose", "the outputs of a ConvTranspose are sums over several windows")
    if node.op != "Conv":
        rows = int(weight.shape[0 if node.attrs.get("transB", 0) else 1])
        shape = builder.constant("gram_shape", np.array([1, -1, rows], np.int64))
        flat = builder.node("Reshape", [as_float(builder, target), shape], "gram")
        return builder.node("Transpose", [flat], "gram", {"perm": [0, 2, 1]})
    rank, group = len(weight.shape) - 2, int(node.attrs.get("group", 1))
    ones = [1] * rank
    turned = _channels_first(builder, as_float(builder, target), rank)
    taken = _tap(builder, turned, [0] * rank, ones, [step] * rank, ones)
    rows = int(weight.shape[0]) // group
    return _split(builder, taken, _Blocks(group, rows, 1, rows))


def _ones(builder: NodeBuilder, rows: gs.Tensor) -> gs.Variable:
    """A row of ones for [group * blocks, size, n], whatever n is in this run.

    It comes from the data: of known shape, the runtime would hold it as a constant of that size.
    """
    first = [builder.constant("gram_slice", np.array([v], np.int64)) for v in (0, 1, 1)]
    row = builder.node("Slice", [rows, *first], "gram")
    one = builder.constant("gram_one", np.array(1, np.float32))
    return builder.node("Clip", [row, one, one], "gram")


def _windows(builder: NodeBuilder, node: gs.Node, step: int) -> list[gs.Tensor]:
    """The unfolded input of a Conv, tap by tap: [group * channels, samples, *positions] each."""
    weight = node.inputs[1]
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    strides = [s * step for s in node.attrs.get("strides", [1] * rank)]
    dilations = list(node.attrs.get("dilations", [1] * rank))
    padded = _padded(builder, node, kernel, dilations)
    turned = _channels_first(builder, padded, rank)
    return [
        _tap(builder, turned, index, kernel, strides, dilations)
        for index in itertools.product(*(range(k) for k in kernel))
    ]


def _channels(builder: NodeBuilder, node: gs.Node, step: int) -> list[gs.Tensor]:
    """The input of a ConvTranspose: [group * channels, samples, *positions]; each tap sees the same."""
    rank = len(node.inputs[1].shape) - 2
    ones = [1] * rank
    turned = _channels_first(builder, as_float(builder, node.inputs[0]), rank)
    return [_tap(builder, turned, [0] * rank, ones, [step] * rank, ones)]


def _rows(builder: NodeBuilder, node: gs.Node, _step: int) -> list[gs.Tensor]:
    """The input of a Gemm or MatMul: [1, features, rows]."""
    weight = node.inputs[1]
    require(len(weight.shape) == 2, "its weight is a stack of matrices")
    require(not node.attrs.get("transA", 0), "its input is transposed")
    features = int(weight.shape[1 if node.attrs.get("transB", 0) else 0])
    shape = builder.constant("gram_shape", np.array([1, -1, features], np.int64))
    rows = builder.node("Reshape", [as_float(builder, node.inputs[0]), shape], "gram")
    return [builder.node("Transpose", [rows], "gram", {"perm": [0, 2, 1]})]


def as_float(builder: NodeBuilder, tensor: gs.Tensor) -> gs.Tensor:
    """The tensor in single precision: sums of half-precision squares overflow."""
    if tensor.dtype == np.float32:
        return tensor
    return builder.node("Cast", [tensor], "gram", {"to": _FLOAT})


def _channels_first(builder: NodeBuilder, tensor: gs.Tensor, rank: int) -> gs.Variable:
    """[channels, N, *positions]: turned once, before the taps multiply its size."""
    return builder.node("Transpose", [tensor], "gram", {"perm": [1, 0, *range(2, 2 + rank)]})


def _padded(
    builder: NodeBuilder, node: gs.Node, kernel: Sequence[int], dilations: Sequence[int]
) -> gs.Tensor:
    """The input of a Conv with its pads around it."""
    tensor, rank = as_float(builder, node.inputs[0]), len(kernel)
    if node.attrs.get("auto_pad", "NOTSET").startswith("SAME"):
        windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        return builder.node("Pad", [tensor, _same_pads(builder, node, tensor, windows)], "gram")
    pads = list(node.attrs.get("pads", [0] * 2 * rank))
    if not any(pads):
        return tensor
    full = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    return builder.node("Pad", [tensor, builder.constant("gram_pads", full)], "gram")


def _same_pads(builder: NodeBuilder, node: gs.Node, tensor: gs.Tensor, windows: Sequence[int]) -> gs.Variable:
    """Pads, for Pad-13, that depend on the size of the input (Conv-11, SAME_UPPER and SAME_LOWER).

    Along an axis of n: max(0, floor((n - 1) / stride) * stride + window - n), the odd one at the end for UPPER.
    """

    def values(*numbers: int) -> gs.Constant:
        return builder.constant("gram_pads", np.array(numbers, np.int64))

    def node_of(op: str, *inputs: gs.Tensor) -> gs.Variable:
        return builder.node(op, list(inputs), "gram")

    strides = values(*node.attrs.get("strides", [1] * len(windows)))
    size = node_of("Slice", node_of("Shape", tensor), values(2), values(_TO_THE_END))
    last = node_of("Mul", node_of("Div", node_of("Sub", size, values(1)), strides), strides)
    total = node_of("Max", node_of("Sub", node_of("Add", last, values(*windows)), size), values(0))
    less = node_of("Div", total, values(2))
    more = node_of("Sub", total, less)
    first, second = (less, more) if node.attrs["auto_pad"] == "SAME_UPPER" else (more, less)
    pads = [values(0, 0), first, values(0, 0), second]
    return builder.node("Concat", pads, "gram", {"axis": 0})


def _tap(
    builder: NodeBuilder,
    tensor: gs.Tensor,
    index: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> gs.Tensor:
    """What the window sees at one tap, all positions: a strided slice that ends where the last window does."""
    if all(k == 1 for k in kernel) and all(s == 1 for s in strides):
        return tensor
    starts = [i * d for i, d in zip(index, dilations, strict=True)]
    behind = [(k - 1) * d - s for k, d, s in zip(kernel, dilations, starts, strict=True)]
    ends = [-b if b else _TO_THE_END for b in behind]
    axes = list(range(2, 2 + len(kernel)))
    bounds = [builder.constant("gram_slice", np.array(v, np.int64)) for v in (starts, ends, axes, strides)]
    return builder.node("Slice", [tensor, *bounds], "gram")
