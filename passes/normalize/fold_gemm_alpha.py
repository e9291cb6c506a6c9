"""The factor of a Gemm's product becomes part of its weight."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, is_float_constant, is_private, read, require, rewrites, scaled


@rewrites(("Gemm",))
def fold_gemm_alpha(graph: gs.Graph, node: gs.Node) -> None:
    """Multiply a Gemm's constant weight, which nothing else may read, by its alpha.

    Computed in float64 and stored in the weight's dtype; left where that cannot hold a product. Preserving: equal but
    for rounding.
    """
    alpha, weight = attribute(node, "alpha", 1.0), node.inputs[1]
    require(alpha != 1, "its alpha is 1")
    require(
        is_float_constant(weight) and is_private(graph, weight), f"{weight.name} is no constant of its own"
    )
    node.inputs[1] = gs.Constant(weight.name, scaled(read(weight), alpha))
    del node.attrs["alpha"]
