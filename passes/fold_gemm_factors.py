"""The factors of a Gemm become part of its weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    Array,
    attribute,
    is_float_constant,
    is_private,
    optional_input,
    own_name,
    read,
    require,
    rewrite_each,
)


@dataclass(frozen=True, slots=True)
class FoldGemmFactors:
    """Gemm's alpha goes into its constant weight, which nothing else may read, and beta into its constant bias.

    A bias that others read as well is copied. A factor whose product does not fit the dtype is left. Computed in
    float64 and stored in the constant's dtype. Preserving: equal but for rounding.
    """

    name: ClassVar[str] = "fold-gemm-factors"

    def __call__(self, graph: gs.Graph) -> bool:
        """Edit `graph` in place; True if it changed."""
        changed = rewrite_each(graph, ("Gemm",), _fold_alpha)
        return rewrite_each(graph, ("Gemm",), _fold_beta) or changed


def _fold_alpha(graph: gs.Graph, node: gs.Node) -> None:
    alpha, weight = attribute(node, "alpha", 1.0), node.inputs[1]
    require(alpha != 1, "its alpha is 1")
    require(is_float_constant(weight), f"{weight.name} is not a floating-point constant")
    require(is_private(graph, weight), f"{weight.name} is read elsewhere, too")
    node.inputs[1] = gs.Constant(weight.name, _scaled(weight, alpha))
    del node.attrs["alpha"]


def _fold_beta(graph: gs.Graph, node: gs.Node) -> None:
    beta, bias = attribute(node, "beta", 1.0), optional_input(node, 2)
    require(beta != 1, "its beta is 1")
    require(bias is None or is_float_constant(bias), "its bias is not a floating-point constant")
    if bias is not None:
        node.inputs[2] = gs.Constant(own_name(graph, bias), _scaled(bias, beta))
    del node.attrs["beta"]


def _scaled(constant: gs.Constant, factor: float) -> Array:
    with np.errstate(all="ignore"):  # what does not fit is refused
        values: Array = np.asarray(read(constant) * np.float64(factor), constant.dtype)
    require(bool(np.isfinite(values).all()), f"a value of {constant.name} would overflow {constant.dtype}")
    return values
