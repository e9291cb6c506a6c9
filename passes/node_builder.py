"""New nodes and constants for passes that rewrite: unique names, one output, appended to the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.matching import graphs


@dataclass(frozen=True, slots=True)
class NodeBuilder:
    """Adds to one graph under names that nothing in the whole model has; `taken` grows with each.

    Names are a stem and a number where needed, so the same edits give the same names. New nodes go to the end
    of the list of nodes: sort the graph when done.
    """

    graph: gs.Graph
    taken: set[str]
    _counts: dict[str, int] = field(default_factory=dict)  # of a stem: the last number behind it

    def constant(self, stem: str, values: NDArray[Any]) -> gs.Constant:
        """A new constant named after `stem`."""
        return gs.Constant(self.name(stem), np.ascontiguousarray(values).reshape(np.shape(values)))

    def node(
        self, op: str, inputs: Sequence[gs.Tensor], stem: str, attrs: Mapping[str, Any] | None = None
    ) -> gs.Variable:
        """The output, of unknown type and shape, of a new node named after `stem`."""
        output = gs.Variable(self.name(stem))
        self.into(output, op, inputs, attrs)
        return output

    def into(
        self,
        output: gs.Variable,
        op: str,
        inputs: Sequence[gs.Tensor],
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """A new node that computes `output`, which nothing else may compute."""
        name = self.name(f"{output.name}_{op}")
        self.graph.nodes.append(
            gs.Node(op, name=name, attrs=dict(attrs or {}), inputs=list(inputs), outputs=[output])
        )

    def name(self, stem: str) -> str:
        """`stem`, or with a number behind it where it is taken."""
        count = self._counts.get(stem, 0)
        name = f"{stem}_{count}" if count else stem
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self._counts[stem] = count
        self.taken.add(name)
        return name


def builders(graph: gs.Graph) -> tuple[NodeBuilder, ...]:
    """A builder for the graph and for each control-flow subgraph inside it, sharing the names taken."""
    taken: set[str] = set()
    for inner in graphs(graph):
        taken.update(inner.tensors())
        taken.update(node.name for node in inner.nodes)
    return tuple(NodeBuilder(inner, taken) for inner in graphs(graph))
