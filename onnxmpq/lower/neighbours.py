"""Layers around a tensor, by way of other quantized tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_graphsurgeon as gs

from onnxmpq.context.prepared import Prepared
from onnxmpq.normalize.discover import layer_names
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.values.placement import Placement

_TAILS = frozenset({"Add", "Clip", "Relu"})  # what integer kernels take in, with nothing quantized before it


def layers_around(prepared: Prepared, placement: Placement, tensors: Collection[str]) -> set[str]:
    """The layers that make or read one of these tensors, and those that do so by way of other quantized tensors."""
    walk = _Walk(prepared, placement)
    return {
        name for tensor in tensors for ahead in (False, True) for name in walk.layers(tensor, ahead=ahead)
    }


def layers_before(prepared: Prepared, placement: Placement, tensors: Iterable[str]) -> dict[str, set[str]]:
    """The layers that make each of these tensors, themselves or by way of quantized tensors."""
    walk = _Walk(prepared, placement)
    return {tensor: set(walk.layers(tensor, ahead=False)) for tensor in tensors}


class _Walk:
    """Walks a model's graph from tensors to the first layers."""

    def __init__(self, prepared: Prepared, placement: Placement) -> None:
        graph = import_graph(prepared.model)
        owners = {name: layer.name for layer in prepared.layers for name in layer.nodes}
        self._layers: Mapping[int, str] = {
            id(node): owners[name] for node, name, _ in layer_names(graph) if name in owners
        }
        self._tensors: Mapping[str, gs.Tensor] = graph.tensors()
        self._graph = graph  # its nodes go by their ids
        self._quantized = {*placement.tensors, *placement.spare}

    def layers(self, tensor: str, *, ahead: bool) -> Iterator[str]:
        """The first layers behind a tensor, or before it, by way of quantized tensors."""
        waiting, seen = [self._tensors[tensor]], {tensor}
        while waiting:
            found = waiting.pop()
            nodes = found.outputs if ahead else found.inputs
            yield from (self._layers[id(node)] for node in nodes if id(node) in self._layers)
            for node in (node for node in nodes if id(node) not in self._layers):
                beyond = node.outputs if ahead else node.inputs
                fresh = [
                    t
                    for t in beyond
                    if t.name not in seen and (t.name in self._quantized or node.op in _TAILS)
                ]
                seen.update(t.name for t in fresh)
                waiting += fresh
