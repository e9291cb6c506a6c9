"""Take the bias out of Gemm nodes: ONNX Runtime's integer Gemm gives float only without one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import NoMatch, optional_input, position, require, rewrite_each
from onnxmpq.passes.node_builder import builders


@dataclass(frozen=True, slots=True)
class SplitGemmBias:
    """Gemm(x, W, C) becomes Gemm(x, W) + beta C wherever the weight W is one of `weights`.

    ONNX Runtime quantizes a bias itself only where the Gemm's output is quantized, beta is 1 and C is a vector;
    any other keeps the whole Gemm in float. Preserving: equal but for the rounding of one addition.
    """

    weights: Collection[str]

    def __call__(self, graph: gs.Graph) -> bool:
        return rewrite_each(graph, ("Gemm",), self._split)

    def _split(self, graph: gs.Graph, node: gs.Node) -> None:
        require(node.inputs[1].name in self.weights, "its weight is not among those asked for")
        bias, total = optional_input(node, 2), node.outputs[0]
        if bias is None:
            raise NoMatch("it has no bias")
        names = builders(graph)[0]
        beta = node.attrs.pop("beta", 1.0)
        added = []
        if beta != 1.0:
            factor = names.constant("beta", np.asarray(beta, bias.dtype or np.float32))
            scaled = gs.Variable(names.name("scaled_bias"))
            added.append(gs.Node("Mul", inputs=[bias, factor], outputs=[scaled]))
            bias = scaled
        product = gs.Variable(names.name("product"), total.dtype, total.shape)
        del node.inputs[2]
        node.outputs[0] = product
        added.append(gs.Node("Add", inputs=[product, bias], outputs=[total]))
        place = position(graph.nodes, node) + 1
        graph.nodes[place:place] = added
