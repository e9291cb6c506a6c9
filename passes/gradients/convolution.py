"""Conv and ConvTranspose, 1-d to 3-d, and the transposed convolution that pooling goes back with.

Sizes are per spatial axis: of an axis of size n, windows of `reach` = dilation (kernel - 1) + 1 start every
`stride` positions, the first one `begin` before the axis starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.gradients.shape import backwards, spread
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import attribute, is_constant, read


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows lie that take an input of size `inside` to an output of size `outside`, axis by axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """How far the last window sticks out at the end; negative where it ends before the input does."""
        last = [s * (o - 1) + r for s, o, r in zip(self.strides, self.outside, self.reach, strict=True)]
        return tuple(size - b - n for size, b, n in zip(last, self.begin, self.inside, strict=True))


def windows(node: gs.Node, kernel: Sequence[int], inside: Sequence[int], outside: Sequence[int]) -> Windows:
    """The windows of a Conv or a pool over axes of size `inside`, or of a ConvTranspose with the two exchanged."""
    rank = len(kernel)
    strides = tuple(attribute(node, "strides", [1] * rank))
    dilations = tuple(attribute(node, "dilations", [1] * rank))
    bare = Windows(tuple(kernel), strides, dilations, (0,) * rank, tuple(inside), tuple(outside))
    auto = attribute(node, "auto_pad", "NOTSET")
    sizes_output = node.op == "ConvTranspose" and "output_shape" in node.attrs
    if sizes_output or auto in {"SAME_UPPER", "SAME_LOWER"}:
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in _total(node, bare)]
    else:
        begin = [0] * rank if auto == "VALID" else attribute(node, "pads", [0] * 2 * rank)[:rank]
    return replace(bare, begin=tuple(begin))


def _total(node: gs.Node, bare: Windows) -> list[int]:
    """The pads at both ends together where the operator finds them itself: what the windows need, never below 0."""
    extra = attribute(node, "output_padding", [0] * bare.rank)
    return [max(0, size + more) for size, more in zip(bare.end, extra, strict=True)]


# Conv


def conv_input(step: Step) -> gs.Tensor:
    """The transposed convolution of g with the weight."""
    return transposed(step.emit, step.g, step.input(1), step.attribute("group", 1), _of_conv(step))


def conv_weight(step: Step) -> gs.Tensor:
    """What each tap saw times g, summed."""
    group = step.attribute("group", 1)
    (channels,) = step.emit.sizes(step.x, [1])
    return _correlated(step.emit, step.x, step.g, channels, group, _of_conv(step))


def _of_conv(step: Step) -> Windows:
    e = step.emit
    kernel = e.spatial(step.input(1))
    inside, outside = e.known(step.x), e.known(step.y)
    unknown = inside is None or outside is None or None in (*inside[2:], *outside[2:])
    if unknown and step.index == 0 and _keeps_density(step.node):
        return _of_free_size(step.node, kernel)
    return windows(step.node, kernel, e.spatial(step.x), e.spatial(step.y))


def _keeps_density(node: gs.Node) -> bool:
    """True where no size is needed to go back: stride 1 and explicit pads."""
    auto = attribute(node, "auto_pad", "NOTSET")
    return all(s == 1 for s in attribute(node, "strides", [1])) and auto in {"NOTSET", "VALID"}


def _of_free_size(node: gs.Node, kernel: Sequence[int]) -> Windows:
    """The windows of a Conv of stride 1 over any size: of the size at which one of them fits."""
    rank = len(kernel)
    bare = windows(node, kernel, [0] * rank, [1] * rank)
    ends = attribute(node, "pads", [0] * 2 * rank)[rank:]
    inside = [r - b - e for r, b, e in zip(bare.reach, bare.begin, ends, strict=True)]
    return replace(bare, inside=tuple(inside))


# ConvTranspose: its output is the input of the Conv that it goes back through


def conv_transpose_input(step: Step) -> gs.Tensor:
    """The convolution of g with the weight."""
    return _conv(step.emit, step.g, step.input(1), step.attribute("group", 1), _of_transpose(step))


def conv_transpose_weight(step: Step) -> gs.Tensor:
    """What each tap wrote to times the input, summed."""
    group = step.attribute("group", 1)
    channels = step.emit.sizes(step.input(1), [1])[0] * group
    return _correlated(step.emit, step.g, step.x, channels, group, _of_transpose(step))


def _of_transpose(step: Step) -> Windows:
    e = step.emit
    return windows(step.node, e.spatial(step.input(1)), e.spatial(step.y), e.spatial(step.x))


# The two products


def transposed(e: Emitter, gradient: gs.Tensor, weight: gs.Tensor, group: int, spans: Windows) -> gs.Tensor:
    """The gradient with respect to a Conv's input, [N, C, *inside], from that of its output, [N, M, *outside].

    A Conv with the flipped weight, over g with zeros between where the stride is not 1; a ConvTranspose where
    that is faster on the CPU: strided and not depthwise.
    """
    if any(s != 1 for s in spans.strides):
        if group == 1:
            return _conv_transpose(e, gradient, weight, spans)
        gradient, spans = _with_zeros_between(e, gradient, spans)
    begin = [r - 1 - b for r, b in zip(spans.reach, spans.begin, strict=True)]
    back = replace(spans, begin=tuple(begin), inside=spans.outside, outside=spans.inside)
    return _conv(e, gradient, _flipped(e, weight, group), group, back)


def _conv_transpose(e: Emitter, gradient: gs.Tensor, weight: gs.Tensor, spans: Windows) -> gs.Tensor:
    """The same by ConvTranspose; what its last window leaves out of the input is filled with zeros."""
    return e(
        "ConvTranspose", gradient, weight,
        kernel_shape=list(spans.kernel), strides=list(spans.strides), dilations=list(spans.dilations),
        pads=_pads(spans), output_padding=[max(0, -end) for end in spans.end],
    )  # fmt: skip


def _with_zeros_between(e: Emitter, gradient: gs.Tensor, spans: Windows) -> tuple[gs.Tensor, Windows]:
    """g on the grid of stride 1, `stride - 1` zeros behind every value, and the windows on that grid."""
    shape: list[int | None] = [None, None, *spans.outside]
    for axis, stride in enumerate(spans.strides, start=2):
        if stride > 1:
            gradient = spread(e, gradient, shape, axis, stride)
    dense = tuple(o * s for o, s in zip(spans.outside, spans.strides, strict=True))
    return gradient, replace(spans, strides=(1,) * spans.rank, outside=dense)


def _flipped(e: Emitter, weight: gs.Tensor, group: int) -> gs.Tensor:
    """[M, C / group, *k] as [C, M / group, *k], every kernel turned around."""
    outputs, inputs, *kernel = e.sizes(weight, range(e.rank(weight)))
    split = [group, outputs // group, inputs, *kernel]
    perm = [0, 2, 1, *range(3, len(split))]
    shape = [group * inputs, outputs // group, *kernel]
    axes = list(range(2, len(shape)))
    if is_constant(weight):
        turned = np.flip(read(weight).reshape(split).transpose(perm).reshape(shape), tuple(axes))
        return e.constant(np.ascontiguousarray(turned))
    turned = weight
    if group > 1:
        turned = e("Reshape", turned, e.ints(split))
        turned = e("Reshape", e.transposed(turned, perm), e.ints(shape))
    else:
        turned = e.transposed(turned, [1, 0, *axes])
    return backwards(e, turned, axes)


def _correlated(
    e: Emitter, tensor: gs.Tensor, gradient: gs.Tensor, channels: int, group: int, spans: Windows
) -> gs.Tensor:
    """The gradient with respect to a weight [M, channels / group, *kernel]: sum over samples and windows.

    The Conv of the transposed operands, with samples in the place of channels and windows in that of taps: its
    strides are the dilations and the other way around.
    """
    axes = list(range(2, 2 + spans.rank))
    batch_last = e.transposed(gradient, [1, 0, *axes])
    if group == 1:
        turned = e.transposed(tensor, [1, 0, *axes])
    else:
        split = e("Reshape", tensor, e.ints([0, group, channels // group, *spans.inside]))
        moved = e.transposed(split, [2, 1, 0, *(a + 1 for a in axes)])
        turned = e("Reshape", moved, e.ints([channels // group, -1, *spans.inside]))
    swapped = Windows(spans.outside, spans.dilations, spans.strides, spans.begin, spans.inside, spans.kernel)
    return e.transposed(_conv(e, turned, batch_last, group, swapped), [1, 0, *axes])


def _pads(spans: Windows) -> list[int]:
    """Pads of an operator, which takes none below 0."""
    return [max(0, size) for size in (*spans.begin, *spans.end)]


def _conv(e: Emitter, tensor: gs.Tensor, weight: gs.Tensor, group: int, spans: Windows) -> gs.Tensor:
    """The Conv with these windows; the tensor is cut where they leave out its border."""
    cut = [[min(0, size) for size in side] for side in (spans.begin, spans.end)]
    return e(
        "Conv", e.padded(tensor, [0, 0, *cut[0]], [0, 0, *cut[1]]), weight,
        kernel_shape=list(spans.kernel), strides=list(spans.strides), dilations=list(spans.dilations),
        group=group, pads=_pads(spans),
    )  # fmt: skip
