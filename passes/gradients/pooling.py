"""Pools and reductions."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.gradients.convolution import Windows, transposed, windows
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import attribute, read, require


def average_pool(step: Step) -> gs.Tensor:
    """Every window's g shared out among the values that it is the mean of."""
    e = step.emit
    spans = windows(step.node, step.node.attrs["kernel_shape"], e.spatial(step.x), e.spatial(step.y))
    share = e("Mul", step.g, e.constant(_shares(step.node, spans).astype(_dtype(step))))
    # One channel at a time: a Conv of group C over [N, C] is one of group 1 over [N C, 1].
    single = e("Reshape", share, e.ints([-1, 1, *spans.outside]))
    ones = e.constant(np.ones((1, 1, *spans.kernel), _dtype(step)))
    return e.reshape_like(transposed(e, single, ones, 1, spans), step.x)


def _shares(node: gs.Node, spans: Windows) -> NDArray[np.float64]:
    """1 / how many values each window is the mean of, [*outside]: none of the padding unless that counts."""
    begin = end = none = (0,) * spans.rank
    if attribute(node, "count_include_pad", 0):
        is_given = attribute(node, "auto_pad", "NOTSET") == "NOTSET"
        begin = spans.begin
        end = tuple(attribute(node, "pads", [*none, *none])[spans.rank :]) if is_given else spans.end
    counts = []
    for axis in range(spans.rank):
        low, high = -begin[axis], spans.inside[axis] + end[axis]
        starts = np.arange(spans.outside[axis]) * spans.strides[axis] - spans.begin[axis]
        taps = starts[:, None] + np.arange(spans.kernel[axis]) * spans.dilations[axis]
        counts.append(((taps >= low) & (taps < high)).sum(axis=1))
    shares: NDArray[np.float64] = 1.0 / functools.reduce(np.multiply.outer, counts)
    return shares


def _dtype(step: Step) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(step.g.dtype)
    return dtype


def global_average_pool(step: Step) -> gs.Tensor:
    """g shared out over space."""
    return _mean_over(step, step.g, list(range(2, step.emit.rank(step.x))))


def max_pool(step: Step) -> gs.Tensor:
    """g added where the largest value of each window came from, the first of equal ones.

    Where windows overlap halves are added in single precision: ONNX Runtime adds none by index.
    """
    apart = _stand_apart(step.node)
    require(not step.attribute("storage_order", 0), "its indices count columns first")
    require(
        apart or step.emit.builder.graph.opset >= 16, "its windows overlap, and sums by index need opset 16"
    )
    return _put_back(step, _indices(step, step.node.attrs), apart=apart)


def global_max_pool(step: Step) -> gs.Tensor:
    """g where the largest value of each map came from, the first of equal ones: one window is the map."""
    kernel = list(step.emit.spatial(step.x))
    return _put_back(step, _indices(step, {"kernel_shape": kernel}), apart=True)


def _put_back(step: Step, indices: gs.Tensor, *, apart: bool) -> gs.Tensor:
    """g at these places of the flat input, zeros elsewhere; added up unless they stand apart."""
    e = step.emit
    flat = e.ints([-1])
    size = e("Reshape", e("Size", step.x), flat)
    places, values = e("Reshape", indices, flat), e("Reshape", step.g, flat)
    widened = not apart and _dtype(step) == np.float16
    dtype = np.dtype(np.float32) if widened else _dtype(step)
    zeros = e("ConstantOfShape", size, value=gs.Constant("zero", np.zeros(1, dtype)))
    how = {} if apart else {"reduction": "add"}
    added = e(
        "ScatterElements", zeros, places, e.cast_like(values, zeros) if widened else values, axis=0, **how
    )
    return e.reshape_like(e.cast_like(added, step.g) if widened else added, step.x)


def _stand_apart(node: gs.Node) -> bool:
    """True where no two windows share a value."""
    kernel = node.attrs["kernel_shape"]
    strides, dilations = (attribute(node, name, [1] * len(kernel)) for name in ("strides", "dilations"))
    return all(s > d * (k - 1) for s, d, k in zip(strides, dilations, kernel, strict=True))


def _indices(step: Step, attrs: Mapping[str, Any]) -> gs.Tensor:
    """Where each window's largest value lies, counted over the whole flat tensor.

    A second node tells: asked of the first, it would take the fast kernel from the run forward.
    """
    return step.emit.pair("MaxPool", step.x, **attrs)[1]


def reduce_sum(step: Step) -> gs.Tensor:
    """g repeated over the axes."""
    axes = _axes(step)
    return step.emit.expand_like(_kept(step, axes), step.x, axes)


def reduce_mean(step: Step) -> gs.Tensor:
    """g shared out over the axes."""
    axes = _axes(step)
    return _mean_over(step, _kept(step, axes), axes)


def _mean_over(step: Step, gradient: gs.Tensor, axes: Sequence[int] | None) -> gs.Tensor:
    e, shape = step.emit, step.emit.known(step.x)
    sizes = None if shape is None else shape if axes is None else [shape[axis] for axis in axes]
    if sizes is not None and None not in sizes:
        share = e("Mul", gradient, 1 / math.prod(size or 1 for size in sizes))
        return e.expand_like(share, step.x, axes)
    ratio = e("Div", e("Size", step.x), e("Size", step.y))
    return e("Div", e.expand_like(gradient, step.x, axes), e.cast_like(ratio, gradient))


def _axes(step: Step) -> list[int] | None:
    """The axes that are reduced, from an input or an attribute; None for all of them."""
    given = step.optional(1)
    axes: list[int] = [*step.attribute("axes", [])] if given is None else read(given).tolist()
    keeps_all = bool(step.attribute("noop_with_empty_axes", 0))
    return axes if axes or keeps_all else None


def _kept(step: Step, axes: Sequence[int] | None) -> gs.Tensor:
    """g with the reduced axes back in place, of size 1; of all axes, one value is as good."""
    e = step.emit
    if axes is None or not axes or step.attribute("keepdims", 1):
        return step.g
    rank = e.rank(step.x) if any(a < 0 for a in axes) else 0
    return e("Unsqueeze", step.g, e.ints(sorted(a % rank if rank else a for a in axes)))
