"""Scalars reduced from named tensors become additional graph outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TapTensors:
    """Add what each of `reductions` makes of each float32 tensor of `tensors` to the graph outputs.

    A reduction is an operator that takes a whole tensor to one value, such as ReduceMin or ReduceMax; its
    output is named by `tap_name` and is float32 of shape []. So nothing large leaves the run, however large the
    tensors. Names that the graph does not have are left out. Exposing: the other outputs stay bit-equal.
    """

    tensors: tuple[str, ...]
    reductions: tuple[str, ...]

    def __call__(self, graph: gs.Graph) -> bool:
        known = graph.tensors()
        nodes = []
        for tensor in self.tensors:
            if tensor not in known:
                _LOGGER.debug("%s is not tapped: the graph has no such tensor", tensor)
                continue
            wanted = (op for op in self.reductions if tap_name(tensor, op) not in known)
            nodes += [_reduce(known[tensor], op) for op in wanted]
        graph.nodes.extend(nodes)
        graph.outputs.extend(node.outputs[0] for node in nodes)
        return bool(nodes)


def tap_name(tensor: str, reduction: str) -> str:
    """The name of the graph output that holds `reduction` of `tensor`."""
    return f"{tensor}/{reduction}"


def _reduce(tensor: gs.Tensor, reduction: str) -> gs.Node:
    tap = gs.Variable(tap_name(tensor.name, reduction), np.float32, ())
    return gs.Node(reduction, attrs={"keepdims": 0}, inputs=[tensor], outputs=[tap])
