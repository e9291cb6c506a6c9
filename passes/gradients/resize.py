"""Resize goes back by a small matrix for each axis: [outside, inside], of which each row makes one value.

Coordinates as in Resize of opset 11 and newer, in single precision and in ONNX Runtime's order: which of two values is
the nearest may hang on the last bit. (With half_pixel_symmetric and floor or ceil a tie may still go the other way.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.gradients.products import along
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import NoMatch, attribute, read, require
from onnxmpq.values.arrays import Doubles

Places = NDArray[np.floating[Any]]

_HALFWAY = 1e-6  # what ONNX Runtime takes for half of the way

# (place in the output, scale, size outside, size inside) -> place in the input
_PLACES: dict[str, Callable[[Places, np.float32, int, int], Places]] = {
    "half_pixel": lambda x, scale, _out, _inn: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, out, _inn: (x + 0.5) / scale - 0.5 if out > 1 else np.zeros(1),
    "half_pixel_symmetric": lambda x, scale, out, inn: (
        inn / 2 * (1 - out / (inn * scale)) + (x + 0.5) / scale - 0.5
    ),
    "align_corners": lambda x, _scale, out, inn: x * (inn - 1) / (out - 1) if out > 1 else np.zeros(1),
    "asymmetric": lambda x, scale, _out, _inn: x / scale,
}
_NEAREST: dict[str, Callable[[Doubles], Doubles]] = {  # of what single precision gives, exactly
    "round_prefer_floor": lambda x: np.ceil(x - 0.5 - _HALFWAY),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5 + _HALFWAY),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(step: Step) -> gs.Tensor:
    """g times the matrix of every axis whose size changed, turned."""
    e, result = step.emit, step.g
    rank = e.rank(step.x)
    scales = _scales(step, rank)
    for axis, (inside, outside) in enumerate(zip(e.shape(step.x), e.shape(step.y), strict=True)):
        if inside == outside and scales.get(axis, 1.0) == 1.0:
            continue
        if inside is None or outside is None:
            raise NoMatch(f"axis {axis} is resized and of free size")
        matrix = weights(step.node, inside, outside, scales.get(axis, outside / inside))
        result = along(e, result, rank, axis, matrix)
    return result


def _scales(step: Step, rank: int) -> dict[int, float]:
    """The scales by axis where they are given, and not the sizes."""
    scales = step.optional(2)
    if scales is None or (scales.shape is not None and 0 in scales.shape):
        require("keep_aspect_ratio_policy" not in step.node.attrs, "its sizes keep the aspect ratio")
        return {}
    axes = step.attribute("axes", list(range(rank)))
    return {axis % rank: float(scale) for axis, scale in zip(axes, read(scales), strict=True)}


def weights(node: gs.Node, inside: int, outside: int, scale: float) -> Doubles:
    """How much of each input value is in each output value along one axis, float64 [outside, inside]."""
    mode = attribute(node, "mode", "nearest")
    transform = attribute(node, "coordinate_transformation_mode", "half_pixel")
    require(mode in {"nearest", "linear"}, f"its mode is {mode!r}; wanted nearest or linear")
    require(not attribute(node, "antialias", 0), "it smooths before it shrinks (antialias)")
    require(transform in _PLACES, f"its coordinates are {transform!r}; wanted one of {', '.join(_PLACES)}")
    rows = np.arange(outside)
    single = _PLACES[transform](rows.astype(np.float32), np.float32(scale), outside, inside)
    places = single.astype(np.float64)
    matrix = np.zeros((outside, inside))
    if mode == "nearest":
        rounding = _NEAREST[attribute(node, "nearest_mode", "round_prefer_floor")]
        matrix[rows, np.clip(rounding(places), 0, inside - 1).astype(int)] = 1
        return matrix
    places = np.clip(places, 0, inside - 1)
    lower = np.floor(places).astype(int)
    np.add.at(matrix, (rows, lower), 1 - (places - lower))
    np.add.at(matrix, (rows, np.minimum(lower + 1, inside - 1)), places - lower)
    return matrix
