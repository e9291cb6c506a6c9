"""How the channels of a map go together within each sample, as additional graph outputs.

A layer behind a global pool sees one vector a sample: the mean over the positions of a map. How far these lie from it
tells of the channels what few means do not (`onnxmpq.rounding.shrink`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators.windows import as_float
from onnxmpq.passes.node_builder import NodeBuilder, builders


@dataclass(frozen=True, slots=True)
class EmitMapGram:
    """Add `map_gram_name(weight)`, float32 [C, C]: sum over samples and positions of (x - m) (x - m)^T.

    `maps` names for each weight the map [N, C, *positions] that is averaged before its layer: x are the channels of
    one position, m their mean over the sample's positions. Of a map of more positions some `most` are taken, evenly
    spaced. Maps that the graph does not have are left out. Exposing: what the graph gave before stays bit-equal.
    """

    maps: Mapping[str, str]
    most: int

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
            _scatter(builder, tensor, self.most, output)
            graph.outputs.append(output)
        if found:
            graph.toposort()
        return bool(found)


def map_gram_name(weight: str) -> str:
    """The name of the graph output that holds the scatter within the maps before a weight's layer."""
    return f"{weight}/map_gram"


def _scatter(builder: NodeBuilder, tensor: gs.Tensor, most: int, output: gs.Variable) -> None:
    """The channels of positions, less their means, times themselves; of no samples the sum is zero."""

    def values(*numbers: int) -> gs.Constant:
        return builder.constant("map_gram_values", np.array(numbers, np.int64))

    def node(op: str, *inputs: gs.Tensor, **attrs: int | list[int]) -> gs.Variable:
        return builder.node(op, list(inputs), "map_gram", attrs)

    # A size that is taken from the input may be zero, and then no other may be left to be found.
    rows = node("Flatten", as_float(builder, tensor), axis=2)
    places = node("Slice", node("Shape", rows), values(1), values(2), values(0))
    channels = node("Slice", node("Shape", tensor), values(1), values(2), values(0))
    flat = node("Reshape", rows, node("Concat", values(-1), channels, places, axis=0))
    every = node("Max", node("Div", places, values(most)), values(1))
    taken = node("Slice", flat, values(0), values(np.iinfo(np.int64).max), values(2), every)
    left = node("Sub", taken, node("GlobalAveragePool", flat))
    turned = node("Transpose", left, perm=[1, 0, 2])
    columns = node("Reshape", turned, node("Concat", channels, values(-1), axis=0))
    builder.into(output, "MatMul", [columns, node("Transpose", columns, perm=[1, 0])])
