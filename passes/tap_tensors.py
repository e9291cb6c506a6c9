"""Named tensors, or scalars reduced from them, become additional graph outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TapTensors:
    """Add the float32 tensors `tensors` to the graph outputs, or what `reductions` make of each.

    A reduction is an operator that takes a whole tensor to one value, such as ReduceMin or ReduceMax; its
    output is named by `tap_name`, is float32 of shape [], and holds no memory beyond the node's run. Without
    reductions the tensors themselves become outputs. Names that the graph does not have are left out.
    Exposing: what the graph gave before stays bit-equal.
    """

    tensors: tuple[str, ...]
    reductions: tuple[str, ...] = ()

    name: ClassVar[str] = "tap-tensors"

    def __call__(self, graph: gs.Graph) -> bool:
        """Edit `graph` in place; True if it changed."""
        known = graph.tensors()
        outputs = {tensor.name for tensor in graph.outputs}
        before = len(outputs)
        for name in self.tensors:
            if name not in known:
                _LOGGER.debug("%s is not tapped: the graph has no such tensor", name)
                continue
            for tap in self._taps(graph, known[name], outputs):
                outputs.add(tap.name)
                graph.outputs.append(tap)
        return len(outputs) > before

    def _taps(self, graph: gs.Graph, tensor: gs.Tensor, outputs: set[str]) -> list[gs.Tensor]:
        if not self.reductions:
            tensor.dtype = tensor.dtype or np.dtype(np.float32)
            return [] if tensor.name in outputs else [tensor]
        wanted = [op for op in self.reductions if tap_name(tensor.name, op) not in outputs]
        taps = [gs.Variable(tap_name(tensor.name, op), np.float32, ()) for op in wanted]
        graph.nodes.extend(
            gs.Node(op, attrs={"keepdims": 0}, inputs=[tensor], outputs=[tap])
            for op, tap in zip(wanted, taps, strict=True)
        )
        return taps


def tap_name(tensor: str, reduction: str) -> str:
    """The name of the graph output that holds `reduction` of `tensor`."""
    return f"{tensor}/{reduction}"
