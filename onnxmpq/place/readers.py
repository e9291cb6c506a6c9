"""Who reads a tensor of a graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs


class Readers:
    """The readers of tensors of the main graph; a graph output and a subgraph are places where a tensor is read, too."""

    def __init__(self, graph: gs.Graph) -> None:
        self._own = {id(node) for node in graph.nodes}
        self._outputs = {tensor.name for tensor in graph.outputs}

    def is_output(self, tensor: gs.Tensor) -> bool:
        """True for an output of the graph."""
        return tensor.name in self._outputs

    def only(self, tensor: gs.Tensor) -> gs.Node | None:
        """The single place that reads `tensor`; None where a graph output or a subgraph does too."""
        if len(tensor.outputs) != 1 or self.is_output(tensor) or id(tensor.outputs[0]) not in self._own:
            return None
        return tensor.outputs[0]

    def of(self, tensor: gs.Tensor) -> Iterator[gs.Node]:
        """The nodes of the graph that read `tensor`."""
        return (node for node in tensor.outputs if id(node) in self._own)
