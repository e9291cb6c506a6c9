"""Sums over the channels of named tensors become additional graph outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.node_builder import NodeBuilder, builders


@dataclass(frozen=True, slots=True)
class TapChannels:
    """Add the sums of float32 tensors' values over each channel, and those of their squares, to the graph outputs.

    `axes` are those that channels lie along, by tensor, `ranks` how many each tensor has. The outputs are named by
    `channels_name` and are float32 [channels], so that nothing large leaves the run (Mul-13, ReduceSum-13). Names that
    the graph does not have are left out. Exposing: the other outputs stay bit-equal.
    """

    axes: Mapping[str, Sequence[int]]
    ranks: Mapping[str, int]

    def __call__(self, graph: gs.Graph) -> bool:
        known, build = graph.tensors(), builders(graph)[0]
        tapped = [
            n for n, axes in self.axes.items() if n in known and channels_name(n, axes[0], 1) not in known
        ]
        for name in tapped:
            squares = build.node("Mul", [known[name], known[name]], f"{name}_squares")
            for axis in self.axes[name]:
                others = [other for other in range(self.ranks[name]) if other != axis]
                for power, values in ((1, known[name]), (2, squares)):
                    graph.outputs.append(_sum(build, values, others, channels_name(name, axis, power)))
        if tapped:
            graph.toposort()
        return bool(tapped)


def channels_name(tensor: str, axis: int, power: int) -> str:
    """The name of the graph output that holds the sums over the channels along an axis, of values to this power."""
    return f"{tensor}/channels{axis}/{power}"


def _sum(build: NodeBuilder, values: gs.Tensor, axes: Sequence[int], name: str) -> gs.Variable:
    total = gs.Variable(build.name(name), np.float32, (None,))
    build.into(total, "ReduceSum", [values, build.constant(f"{name}_axes", np.array(axes))], {"keepdims": 0})
    return total
