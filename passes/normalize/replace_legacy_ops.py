"""Write the experimental operators of the first exporters with standard ones.

ONNX dropped them before opset 10, and ONNX Runtime runs them below that opset only. Two more, DynamicSlice and the
first MeanVarianceNormalization, became standard operators: those are rules of `raise_opset`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_standard
from onnxmpq.passes.node_builder import NodeBuilder, builders

_TO_THE_END = np.iinfo(np.int32).max
_SLICE_TAKES_INPUTS = 10  # opset


def replace_legacy_ops(graph: gs.Graph) -> bool:
    """Rewrite Affine, Crop, ImageScaler, ParametricSoftplus, Scale and ScaledTanh; preserving.

    To be run before RaiseOpset. Constants take the type of the data, single precision where it is not known.
    """
    changed = False
    for build in builders(graph):
        for node in [n for n in build.graph.nodes if n.op in _REPLACEMENTS and is_standard(n)]:
            _replace(build, node)
            changed = True
    if changed:
        graph.toposort()
    return changed


def _replace(build: NodeBuilder, node: gs.Node) -> None:
    x, y = node.inputs[0], node.outputs[0]
    replacement = _REPLACEMENTS[node.op]
    build.graph.nodes[:] = [other for other in build.graph.nodes if other is not node]
    node.inputs.clear()
    node.outputs.clear()
    replacement(_Site(build, node, x, y))


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a node stood that computed `y` from `x`, and is replaced."""

    build: NodeBuilder
    node: gs.Node
    x: gs.Tensor
    y: gs.Variable

    def number(self, role: str, default: object) -> gs.Constant:
        """An attribute of the node as a constant of the data's type."""
        return self.constant(role, self.node.attrs.get(role, default))

    def constant(self, role: str, value: object) -> gs.Constant:
        dtype = np.float32 if self.x.dtype is None else self.x.dtype
        return self.build.constant(f"{self.y.name}_{role}", np.array(value, dtype))

    def product(self, role: str, default: float) -> gs.Tensor:
        """X times an attribute."""
        return self.build.node("Mul", [self.x, self.number(role, default)], f"{self.y.name}_{role}_product")


def _affine(site: _Site) -> None:
    """Y = alpha X + beta."""
    site.build.into(site.y, "Add", [site.product("alpha", 1.0), site.number("beta", 0.0)])


def _image_scaler(site: _Site) -> None:
    """Y = scale X + bias, with a bias for each channel of [N, C, H, W]."""
    bias = np.reshape(site.node.attrs.get("bias", [0.0]), (1, -1, 1, 1))
    site.build.into(site.y, "Add", [site.product("scale", 1.0), site.constant("bias", bias)])


def _scale(site: _Site) -> None:
    """Y = scale X."""
    site.build.into(site.y, "Mul", [site.x, site.number("scale", 1.0)])


def _of_scaled(op: str, site: _Site) -> None:
    """Y = alpha op(beta X)."""
    value = site.build.node(op, [site.product("beta", 0.0)], f"{site.y.name}_{op.lower()}")
    site.build.into(site.y, "Mul", [value, site.number("alpha", 0.0)])


def _crop(site: _Site) -> None:
    """Cut `border` (left, top, right, bottom) off [N, C, H, W], or keep `scale` (height, width) from left and top."""
    left, top, right, bottom = site.node.attrs["border"]
    if "scale" in site.node.attrs:
        height, width = site.node.attrs["scale"]
        ends = [top + height, left + width]
    else:
        ends = [-bottom or _TO_THE_END, -right or _TO_THE_END]
    spans = {"starts": [top, left], "ends": ends, "axes": [2, 3]}
    if site.build.graph.opset < _SLICE_TAKES_INPUTS:
        site.build.into(site.y, "Slice", [site.x], spans)
        return
    inputs = [site.build.constant(f"{site.y.name}_{k}", np.array(v, np.int64)) for k, v in spans.items()]
    site.build.into(site.y, "Slice", [site.x, *inputs])


_REPLACEMENTS: dict[str, Callable[[_Site], None]] = {
    "Affine": _affine,
    "Crop": _crop,
    "ImageScaler": _image_scaler,
    "ParametricSoftplus": partial(_of_scaled, "Softplus"),
    "Scale": _scale,
    "ScaledTanh": partial(_of_scaled, "Tanh"),
}
