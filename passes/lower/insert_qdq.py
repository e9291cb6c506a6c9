"""Quantize activations: a QuantizeLinear and a DequantizeLinear on named tensors."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import NoMatch, position, redirect, require
from onnxmpq.passes.node_builder import builders
from onnxmpq.values.activation_range import ActivationRange

_SHAPE_READERS = frozenset({"Shape", "Size"})  # they read no values, so they may as well read the codes
_READABLE_BITS = 8  # ONNX Runtime has no Shape of 4-bit codes
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InsertQdq:
    """Put a Q/DQ pair (one scale a tensor; QuantizeLinear-13, or 21 where codes have 4 or 16 bits) on each tensor
    of `ranges`.

    Everyone reads the quantized value, graph outputs and subgraphs too. A tensor in `float_sources` is of use in
    float as well: there only the nodes listed, by their first outputs, read the quantized value. Equal ranges
    share their constants. Lowering: differs by the rounding and clipping of the ranges.
    """

    ranges: Mapping[str, ActivationRange]
    float_sources: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __call__(self, graph: gs.Graph) -> bool:
        tensors = {name: tensor for name, tensor in graph.tensors().items() if name in self.ranges}
        writer = _Writer(graph)
        changed = False
        for name in self.ranges:
            try:
                _check(tensors.get(name))
            except NoMatch as reason:
                _LOGGER.debug("%s is not quantized: %s", name, reason)
            else:
                self._quantize(tensors[name], writer)
                changed = True
        return changed

    def _quantize(self, tensor: gs.Tensor, writer: _Writer) -> None:
        activation = self.ranges[tensor.name]
        if tensor.inputs and tensor.name not in self.float_sources:
            writer.quantize_result(tensor, activation)
            return
        wanted = self.float_sources.get(tensor.name)
        readers = [n for n in tensor.outputs if wanted is None or n.outputs[0].name in wanted]
        writer.quantize_for(readers, tensor, activation)


def _check(tensor: gs.Tensor | None) -> None:
    if tensor is None:
        raise NoMatch("the graph has no such tensor")
    require(tensor.dtype in {None, np.dtype(np.float32)}, f"it is {tensor.dtype}, not float32")
    require(all(node.op != "DequantizeLinear" for node in tensor.inputs), "it is dequantized already")
    require(all(node.op != "QuantizeLinear" for node in tensor.outputs), "it is quantized already")


class _Writer:
    """Writes Q/DQ pairs into one graph, right behind what they quantize; equal parameters are written once."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._names = builders(graph)[0]
        typed = lru_cache(maxsize=None, typed=True)  # the zero points of 8 and of 16 bits are equal
        self._parameter = typed(lambda stem, value: self._names.constant(stem, np.asarray(value)))

    def quantize_result(self, tensor: gs.Variable, activation: ActivationRange) -> None:
        """The tensor, which a node makes, becomes the dequantized value, for all who know its name."""
        node = tensor.inputs[0]
        result = gs.Variable(self._names.name("float"), tensor.dtype, tensor.shape)
        node.outputs[position(node.outputs, tensor)] = result
        codes = self._write_pair(result, tensor, activation, position(self._graph.nodes, node) + 1)
        if activation.codes.bits >= _READABLE_BITS:
            redirect([n for n in tensor.outputs if n.op in _SHAPE_READERS], tensor, codes)

    def quantize_for(
        self, readers: Sequence[gs.Node], tensor: gs.Tensor, activation: ActivationRange
    ) -> None:
        """The readers get a dequantized value in the tensor's place."""
        result = gs.Variable(self._names.name("dequantized"), tensor.dtype, tensor.shape)
        redirect(readers, tensor, result)
        place = position(self._graph.nodes, tensor.inputs[0]) + 1 if tensor.inputs else 0
        self._write_pair(tensor, result, activation, place)

    def _write_pair(
        self, source: gs.Tensor, result: gs.Variable, activation: ActivationRange, place: int
    ) -> gs.Variable:
        dtype = activation.codes.dtype
        codes = gs.Variable(self._names.name("codes"), dtype, source.shape)
        scale = self._parameter("scale", np.float32(activation.scale))
        zero_point = self._parameter("zero_point", dtype.type(activation.zero_point))
        self._graph.nodes[place:place] = [
            gs.Node("QuantizeLinear", inputs=[source, scale, zero_point], outputs=[codes]),
            gs.Node("DequantizeLinear", inputs=[codes, scale, zero_point], outputs=[result]),
        ]
        return codes
