"""Operators that move values and compute none: what was moved is moved back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.gradients.products import along
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import NoMatch, is_constant, pads_by_axis, read, require

_BEFORE_THE_START = np.iinfo(np.int64).min
# Values along the last axis that a product spreads faster than a Pad, which copies them one by one.
_NARROW = 128


def reshape(step: Step) -> gs.Tensor:
    """Reshape, Flatten, Squeeze, Unsqueeze: g in the shape of x."""
    return step.emit.reshape_like(step.g, step.x)


def transpose(step: Step) -> gs.Tensor:
    """g with its axes turned back."""
    perm = step.attribute("perm", []) or list(range(step.emit.rank(step.x)))[::-1]
    return step.emit.transposed(step.g, np.argsort(perm).tolist())


def concat(step: Step) -> gs.Tensor:
    """The part of g that the input became."""
    e, axis = step.emit, step.node.attrs["axis"]
    *before, size = [_size(e, tensor, axis) for tensor in step.node.inputs[: step.index + 1]]
    start = _sum(e, before)
    return e("Slice", step.g, start, _sum(e, [start, size]), e.ints([axis]))


def _sum(e: Emitter, sizes: Sequence[gs.Tensor]) -> gs.Tensor:
    """The sum of int64 vectors, a constant where all of them are."""
    if all(is_constant(size) for size in sizes):
        return e.constant(sum((read(size) for size in sizes), np.zeros(1, np.int64)))
    return reduce(partial(e, "Add"), sizes)


def _size(e: Emitter, tensor: gs.Tensor, axis: int) -> gs.Tensor:
    """The size along an axis, int64 [1]: a constant where it is known, else found in the run."""
    known = e.known(tensor)
    size = None if known is None else known[axis]
    if size is not None:
        return e.ints([size])
    return e("Slice", e("Shape", tensor), e.ints([axis]), e.ints([axis + 1 or np.iinfo(np.int64).max]))


def split(step: Step) -> gs.Tensor:
    """The parts' gradients side by side, zeros for a part that nothing depends on."""
    e = step.emit
    pairs = zip(step.gradients, step.node.outputs, strict=True)
    parts = [_zeros(step, output) if g is None else g for g, output in pairs]
    return e("Concat", *parts, axis=step.attribute("axis", 0))


def _zeros(step: Step, like: gs.Tensor) -> gs.Tensor:
    known = next(g for g in step.gradients if g is not None)
    zero = gs.Constant("zero", np.zeros(1, known.dtype))
    return step("ConstantOfShape", step("Shape", like), value=zero)


def slice_(step: Step) -> gs.Tensor:
    """g put back where it was cut out, zeros around it and between."""
    e = step.emit
    rank = e.rank(step.x)
    result, shape = step.g, list(e.shape(step.y))
    begin, end = [0] * rank, [0] * rank
    bounds = _bounds(step, rank)
    sizes = dict(zip(bounds, e.sizes(step.x, list(bounds)), strict=True))
    parts = {axis: range(sizes[axis])[part] for axis, part in bounds.items()}
    if not all(parts.values()):  # nothing is taken
        return e.filled(0.0, step.x, step.g)
    for axis, taken in parts.items():
        stride, first = abs(taken.step), min(taken[0], taken[-1])
        if taken.step < 0:
            result = backwards(e, result, [axis])
        if stride > 1:
            result = spread(e, result, shape, axis, stride)
        begin[axis], end[axis] = first, sizes[axis] - first - len(taken) * stride
    return e.padded(result, begin, end)


def _bounds(step: Step, rank: int) -> dict[int, slice]:
    """What is taken along each axis; starts, ends, axes and steps must be constants."""
    starts, ends = (read(step.input(index)).tolist() for index in (1, 2))
    axes, steps = (step.optional(index) for index in (3, 4))
    chosen = list(range(len(starts))) if axes is None else read(axes).tolist()
    strides = [1] * len(starts) if steps is None else read(steps).tolist()
    return {
        axis % rank: slice(start, end, stride)
        for axis, start, end, stride in zip(chosen, starts, ends, strides, strict=True)
    }


def backwards(e: Emitter, tensor: gs.Tensor, axes: Sequence[int]) -> gs.Tensor:
    """The values along some axes in the opposite order."""
    minus, ends = [[value] * len(axes) for value in (-1, _BEFORE_THE_START)]
    return e("Slice", tensor, e.ints(minus), e.ints(ends), e.ints(axes), e.ints(minus))


def spread(e: Emitter, tensor: gs.Tensor, shape: list[int | None], axis: int, stride: int) -> gs.Tensor:
    """`stride - 1` zeros behind every value along an axis; `shape`, the tensor's, becomes the result's."""
    size, behind = shape[axis], shape[axis + 1 :]
    if size is None or behind.count(None) > 1:
        raise NoMatch(f"sizes of its output, {shape}, are free")
    if not behind and size <= _NARROW:
        shape[axis] = size * stride
        return e("MatMul", tensor, e.cast_like(e.constant(_places(size, stride)), tensor))
    apart = e("Unsqueeze", tensor, e.ints([axis + 1]))
    none, fill = [0] * (len(shape) + 1), [0] * (axis + 1) + [stride - 1] + [0] * len(behind)
    filled = e.padded(apart, none, fill)
    shape[axis] = size * stride
    joined = [0] * axis + [-1 if s is None else s for s in (shape[axis], *behind)]
    return e("Reshape", filled, e.ints(joined))


def _places(size: int, stride: int) -> NDArray[np.float32]:
    """[size, size x stride]: a one where each value goes."""
    places = np.zeros((size, size * stride), np.float32)
    places[np.arange(size), stride * np.arange(size)] = 1
    return places


def pad(step: Step) -> gs.Tensor:
    """g without the border; what the border repeats gets its part of g as well."""
    mode, result = step.attribute("mode", "constant"), step.g
    e, rank = step.emit, step.emit.rank(step.x)
    added = pads_by_axis(step.node, rank)
    if mode == "constant":
        return e.padded(result, [-begin for begin, _ in added], [-end for _, end in added])
    for axis, sides in enumerate(added):
        if any(sides):
            (size,) = e.sizes(step.x, [axis])
            result = along(e, result, rank, axis, _repeated(size, sides, mode))
    return result


def pad_value(step: Step) -> gs.Tensor | None:
    """The sum of g over the border; nothing in the modes that repeat values."""
    if step.attribute("mode", "constant") != "constant":
        return None
    e, rank = step.emit, step.emit.rank(step.x)
    inside = e.padded(e.filled(1.0, step.x, step.g), *zip(*pads_by_axis(step.node, rank), strict=True))
    border = e("Where", e("Greater", inside, 0.0), 0.0, step.g)
    return e.reshape_like(e.sum(border, list(range(rank)), keep=False), step.asked)


def _repeated(size: int, sides: tuple[int, int], mode: Any) -> NDArray[np.float32]:
    """[padded size, size]: a one where each value was taken from."""
    require(mode in {"reflect", "edge", "wrap"}, f"its mode {mode!r} is not known")
    require(min(sides) >= 0, f"it cuts and repeats values (mode {mode!r})")
    taken = np.pad(np.arange(size), sides, mode)
    return np.eye(size, dtype=np.float32)[taken]


def depth_to_space(step: Step) -> gs.Tensor:
    """Blocks of space back into channels."""
    e, block = step.emit, step.node.attrs["blocksize"]
    if step.attribute("mode", "DCR") == "DCR":
        return e("SpaceToDepth", step.g, blocksize=block)
    depth, height, width = e.sizes(step.x, [1, 2, 3])
    split_up = e("Reshape", step.g, e.ints([0, depth // block**2, height, block, width, block]))
    turned = e.transposed(split_up, [0, 1, 3, 5, 2, 4])
    return e("Reshape", turned, e.ints([0, depth, height, width]))


def space_to_depth(step: Step) -> gs.Tensor:
    """Channels back into blocks of space."""
    return step("DepthToSpace", step.g, blocksize=step.node.attrs["blocksize"])
