"""A mean over all spatial axes is a global average pool, for which runtimes have integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    NoMatch,
    attribute,
    optional_input,
    position,
    read,
    require,
    rewrites,
)
from onnxmpq.passes.node_builder import builders

_POOLED = (np.dtype(np.float32), np.dtype(np.float16))  # of doubles ONNX Runtime has no GlobalAveragePool


@rewrites(("ReduceMean",))
def pool_global_means(graph: gs.Graph, node: gs.Node) -> None:
    """Replace a ReduceMean over axis 2 and all that follow by GlobalAveragePool.

    Where the mean dropped the axes, a Flatten does it behind the pool. The tensor's type and rank must be known
    and the axes constant (an attribute up to ReduceMean-13, an input from 18 on). Preserving: equal but for the
    order of the sums.
    """
    source, mean = node.inputs[0], node.outputs[0]
    if source.shape is None or source.dtype not in _POOLED:
        raise NoMatch(f"{source.name} is not known to be a tensor of single or half precision of some rank")
    rank = len(source.shape)
    axes = sorted(axis % rank for axis in _axes(node))
    require(rank > 2 and axes == list(range(2, rank)), f"it takes the mean over axes {axes} of {rank}")
    keeps_axes = bool(attribute(node, "keepdims", 1))
    node.op = "GlobalAveragePool"
    node.attrs.clear()
    node.inputs.clear()
    node.inputs.append(source)
    if keeps_axes:
        return
    pooled = gs.Variable(builders(graph)[0].name("pooled"), source.dtype)
    node.outputs[0] = pooled
    place = position(graph.nodes, node) + 1
    graph.nodes.insert(place, gs.Node("Flatten", inputs=[pooled], outputs=[mean]))


def _axes(node: gs.Node) -> list[int]:
    """The axes, negative ones as they stand; none where they are left out."""
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    axes = optional_input(node, 1)
    return [] if axes is None else [int(axis) for axis in read(axes)]
