"""The histogram bins of the values of named tensors become additional graph outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.expose.tap_tensors import tap_name
from onnxmpq.passes.node_builder import builders

BINS = "Bins"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TapBins:
    """Add to the graph outputs, for each float32 tensor of `widths`, which multiple of the width its values lie at.

    The output is named by `tap_name(tensor, BINS)`: round(value / width), int64 [n] with n at most `most`. Of a larger
    tensor every k-th value is picked, k odd so as not to meet the same columns of every row. Names that the graph
    does not have are left out. Opset 11. Exposing: the other outputs stay bit-equal.
    """

    widths: Mapping[str, float]
    most: int

    def __call__(self, graph: gs.Graph) -> bool:
        known = graph.tensors()
        wanted = [name for name in self.widths if name in known and tap_name(name, BINS) not in known]
        for name in self.widths.keys() - known.keys():
            _LOGGER.debug("%s is not tapped: the graph has no such tensor", name)
        emit = Emitter(builders(graph)[0])
        for name in wanted:
            self._tap(emit, known[name])
        return bool(wanted)

    def _tap(self, e: Emitter, tensor: gs.Tensor) -> None:
        width = e.constant(np.array(self.widths[tensor.name], np.float32))
        bins = e("Round", e("Div", self._picked(e, tensor), width))
        tap = gs.Variable(tap_name(tensor.name, BINS), np.int64, (f"{tensor.name}/picked",))
        e.builder.into(tap, "Cast", [bins], {"to": int(onnx.TensorProto.INT64)})
        e.builder.graph.outputs.append(tap)

    def _picked(self, e: Emitter, tensor: gs.Tensor) -> gs.Variable:
        """At most `most` values of the tensor, in a row: with a step of size / most, rounded up to an odd number."""
        flat = e("Reshape", tensor, e.ints([-1]))
        halves = e("Div", e("Add", e("Shape", flat), self.most - 1), 2 * self.most)
        step = e("Add", e("Mul", halves, 2), 1)
        ends = [e.ints([value]) for value in (0, np.iinfo(np.int64).max, 0)]
        return e("Slice", flat, *ends, step)
