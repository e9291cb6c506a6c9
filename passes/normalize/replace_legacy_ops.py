"""Write the experimental operators of the first exporters with standard ones.

ONNX dropped them before opset 10, and ONNX Runtime runs them below that opset only. Two more, DynamicSlice and the
first MeanVarianceNormalization, became standard operators: those are rules of `raise_opset`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    def attribute(self, name: str, default: float) -> float:
        return float(self.node.attrs.get(name, default))

    def number(self, role: str, value: object) -> gs.Constant:
        dtype = np.float32 if self.x.dtype is None else self.x.dtype
        return self.build.constant(f"{self.y.name}_{role}", np.array(value, dtype))

    def times(self, x: gs.Tensor, value: float, role: str) -> gs.Tensor:
        """`x` times a number."""
        return self.build.node("Mul", [x, self.number(role, value)], f"{self.y.name}_{role}_product")


def _affine(site: _Site) -> None:
    """Y = alpha X + beta."""
    product = site.times(site.x, site.attribute("alpha", 1.0), "alpha")
    site.build.into(site.y, "Add", [product, site.number("beta", site.attribute("beta", 0.0))])


def _image_scaler(site: _Site) -> None:
    """Y = scale X + bias, with a bias for each channel of [N, C, H, W]."""
    product = site.times(site.x, site.attribute("scale", 1.0), "scale")
    bias = np.reshape(site.node.attrs.get("bias", [0.0]), (1, -1, 1, 1))
    site.build.into(site.y, "Add", [product, site.number("bias", bias)])


def _scale(site: _Site) -> None:
    """Y = scale X."""
    factor = site.number("scale", site.attribute("scale", 1.0))
    site.build.into(site.y, "Mul", [site.x, factor])


def _parametric_softplus(site: _Site) -> None:
    """Y = alpha log(1 + exp(beta X))."""
    inner = site.times(site.x, site.attribute("beta", 0.0), "beta")
    softplus = site.build.node("Softplus", [inner], f"{site.y.name}_softplus")
    site.build.into(site.y, "Mul", [softplus, site.number("alpha", site.attribute("alpha", 0.0))])


def _scaled_tanh(site: _Site) -> None:
    """Y = alpha tanh(beta X)."""
    inner = site.times(site.x, site.attribute("beta", 0.0), "beta")
    tanh = site.build.node("Tanh", [inner], f"{site.y.name}_tanh")
    site.build.into(site.y, "Mul", [tanh, site.number("alpha", site.attribute("alpha", 0.0))])


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
    "ParametricSoftplus": _parametric_softplus,
    "Scale": _scale,
    "ScaledTanh": _scaled_tanh,
}
