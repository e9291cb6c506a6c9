"""The histogram bins of the values of named tensors become additional graph outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.passes.expose.tap_tensors import tap_name
from onnxmpq.passes.node_builder import NodeBuilder, builders

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
        build = builders(graph)[0]
        for name in wanted:
            self._tap(build, known[name])
        return bool(wanted)

    def _tap(self, build: NodeBuilder, tensor: gs.Tensor) -> None:
        scaled = build.node(
            "Div",
            [
                self._picked(build, tensor),
                build.constant("width", np.array(self.widths[tensor.name], np.float32)),
            ],
            "in_bins",
        )
        tap = gs.Variable(tap_name(tensor.name, BINS), np.int64, (f"{tensor.name}/picked",))
        build.into(tap, "Cast", [build.node("Round", [scaled], "bin")], {"to": int(onnx.TensorProto.INT64)})
        build.graph.outputs.append(tap)

    def _picked(self, build: NodeBuilder, tensor: gs.Tensor) -> gs.Variable:
        """At most `most` values of the tensor, in a row: with a step of size / most, rounded up to an odd number."""

        def whole(stem: str, value: int) -> gs.Constant:
            return build.constant(stem, np.array([value], np.int64))

        flat = build.node("Reshape", [tensor, whole("flat_shape", -1)], "flat")
        size = build.node("Shape", [flat], "size")
        halves = build.node("Div", [build.node("Add", [size, whole("round_up", self.most - 1)], "padded"),
                                    whole("most", 2 * self.most)], "halves")  # fmt: skip
        step = build.node(
            "Add", [build.node("Mul", [halves, whole("two", 2)], "even"), whole("one", 1)], "step"
        )
        ends = [whole("start", 0), whole("end", np.iinfo(np.int64).max), whole("axis", 0)]
        return build.node("Slice", [flat, *ends, step], "picked")
