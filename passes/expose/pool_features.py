"""Mean activations of named tensors become additional graph outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.node_builder import NodeBuilder, builders

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolFeatures:
    """Add `pooled_name(tensor)`, float32 [N, channels], for each float32 tensor [N, channels, ...]: its Relu's mean.

    `ranks` maps the tensors to their ranks, 2 or more; the mean is over everything behind the channels. Names
    that the graph does not have are left out. Exposing: the other outputs stay bit-equal.
    """

    ranks: Mapping[str, int]

    def __call__(self, graph: gs.Graph) -> bool:
        known = graph.tensors()
        builder = builders(graph)[0]
        present = {output.name for output in graph.outputs}
        changed = False
        for tensor, rank in self.ranks.items():
            if tensor not in known:
                _LOGGER.debug("%s is not pooled: the graph has no such tensor", tensor)
            elif pooled_name(tensor) not in present:
                graph.outputs.append(_pooled(builder, known[tensor], rank))
                changed = True
        if changed:
            graph.toposort()
        return changed


def pooled_name(tensor: str) -> str:
    """The name of the graph output that holds a tensor's pooled activations."""
    return f"{tensor}/pooled"


def _pooled(builder: NodeBuilder, tensor: gs.Tensor, rank: int) -> gs.Variable:
    positive = builder.node("Relu", [tensor], "pooled")
    if rank > 2:
        positive = builder.node("GlobalAveragePool", [positive], "pooled")
    output = gs.Variable(pooled_name(tensor.name), np.float32, ("samples", f"{tensor.name}/channels"))
    builder.into(output, "Flatten", [positive], {"axis": 1})
    return output
