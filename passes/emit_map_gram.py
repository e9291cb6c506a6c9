"""Second moments of what a global pool averages, as additional graph outputs.

A layer behind a pool sees one vector a sample, a mean over the positions of a map. The map's own vectors are as
many times more, and their channels go together much as those of their means do (`onnxmpq.weights.shrink`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.emit_gram import as_float, ones_like_first
from onnxmpq.passes.node_builder import NodeBuilder, builders


@dataclass(frozen=True, slots=True)
class EmitMapGram:
    """Add `map_gram_name(weight)`, float32 [C + 1, C + 1]: sum over samples and positions of x x^T.

    `maps` names for each weight the map [N, C, *positions] that is averaged before its layer; x holds the channels of
    one position and a 1 behind them. Maps that the graph does not have are left out. Exposing: what the graph gave
    before stays bit-equal.
    """

    maps: Mapping[str, str]

    name: ClassVar[str] = "emit-map-gram"

    def __call__(self, graph: gs.Graph) -> bool:
        """Edit `graph` in place; True if it changed."""
        present = {tensor.name for tensor in graph.outputs}
        tensors, builder = graph.tensors(), builders(graph)[0]
        found = {
            weight: tensors[name]
            for weight, name in self.maps.items()
            if name in tensors and map_gram_name(weight) not in present
        }
        for weight, tensor in found.items():
            output = gs.Variable(map_gram_name(weight), np.float32, (None, None))
            _product(builder, tensor, output)
            graph.outputs.append(output)
        if found:
            graph.toposort()
        return bool(found)


def map_gram_name(weight: str) -> str:
    """The name of the graph output that holds the second moments of what is pooled before a weight's layer."""
    return f"{weight}/map_gram"


def _product(builder: NodeBuilder, tensor: gs.Tensor, output: gs.Variable) -> None:
    """The channels of all positions, a one below them, times themselves."""

    def reshaped(values: gs.Tensor, *shape: int) -> gs.Variable:
        sizes = builder.constant("map_gram_shape", np.array(shape, np.int64))
        return builder.node("Reshape", [values, sizes], "map_gram")

    flat = reshaped(as_float(builder, tensor), 0, 0, -1)
    channels = builder.node("Transpose", [flat], "map_gram", {"perm": [1, 0, 2]})
    rows = reshaped(channels, 0, -1)
    columns = builder.node("Concat", [rows, ones_like_first(builder, rows, 0)], "map_gram", {"axis": 0})
    turned = builder.node("Transpose", [columns], "map_gram", {"perm": [1, 0]})
    builder.into(output, "MatMul", [columns, turned])
