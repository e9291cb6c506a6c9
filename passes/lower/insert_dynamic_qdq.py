"""Quantize activations by the range that each run has: a DynamicQuantizeLinear and a DequantizeLinear on named tensors."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import NoMatch, position, require
from onnxmpq.passes.node_builder import builders

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InsertDynamicQdq:
    """Put DynamicQuantizeLinear-11 (UINT8, one scale a tensor and run) and DequantizeLinear before the readers of tensors.

    `readers` names, for each tensor, the nodes that read the quantized value at their first input, by their first outputs; all
    others go on in float. ONNX Runtime makes DynamicQuantizeMatMul, or QGemm without a bias, of these and a weight's DequantizeLinear.
    Lowering: differs by the rounding.
    """

    readers: Mapping[str, Collection[str]]

    def __call__(self, graph: gs.Graph) -> bool:
        tensors = graph.tensors() if self.readers else {}
        changed = False
        for name, wanted in self.readers.items():
            try:
                _quantize(graph, tensors.get(name), wanted)
            except NoMatch as reason:
                _LOGGER.debug("%s is not quantized: %s", name, reason)
            else:
                changed = True
        return changed


def _quantize(graph: gs.Graph, tensor: gs.Tensor | None, wanted: Collection[str]) -> None:
    if tensor is None:
        raise NoMatch("the graph has no such tensor")
    require(tensor.dtype in {None, np.dtype(np.float32)}, f"it is {tensor.dtype}, not float32")
    readers = [n for n in tensor.outputs if n.outputs[0].name in wanted and n.inputs[0] is tensor]
    require(bool(readers), "none of these nodes reads it")
    names = builders(graph)[0]
    codes = gs.Variable(names.name("codes"), np.uint8, tensor.shape)
    scale = gs.Variable(names.name("scale"), np.float32, ())
    zero_point = gs.Variable(names.name("zero_point"), np.uint8, ())
    result = gs.Variable(names.name("dequantized"), tensor.dtype, tensor.shape)
    for node in readers:
        node.inputs[0] = result
    place = position(graph.nodes, tensor.inputs[0]) + 1 if tensor.inputs else 0
    graph.nodes[place:place] = [
        gs.Node("DynamicQuantizeLinear", inputs=[tensor], outputs=[codes, scale, zero_point]),
        gs.Node("DequantizeLinear", inputs=[codes, scale, zero_point], outputs=[result]),
    ]
