"""The cross-entropy of a classifier with given probabilities becomes a graph output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import require
from onnxmpq.passes.node_builder import builders

TARGET = "cross_entropy/target"
LOSS = "cross_entropy/loss"


@dataclass(frozen=True, slots=True)
class EmitCrossEntropy:
    """Add the input `TARGET` float32 [N, classes] and the output `LOSS`, -sum over samples and classes of target log p.

    `output` is a float32 output [N, classes, 1...] that holds logits; `are_probabilities` where it holds p
    itself. With labels in `TARGET` it is the loss of training, with a reference's probabilities the KL divergence
    but for a constant. Exposing, but for the additional input.
    """

    output: str
    are_probabilities: bool = False

    name: ClassVar[str] = "emit-cross-entropy"

    def __call__(self, graph: gs.Graph) -> bool:
        """Edit `graph` in place; True if it changed. Raises NoMatch where there is no such output."""
        outputs = {output.name: output for output in graph.outputs}
        if LOSS in outputs:
            return False
        require(self.output in outputs, f"the graph has no output {self.output!r}")
        builder = builders(graph)[0]
        flat = builder.node("Flatten", [outputs[self.output]], "cross_entropy", {"axis": 1})
        op, attributes = ("Log", {}) if self.are_probabilities else ("LogSoftmax", {"axis": 1})
        logs = builder.node(op, [flat], "cross_entropy", attributes)
        target = gs.Variable(TARGET, np.float32, ("samples", "classes"))
        products = builder.node("Mul", [target, logs], "cross_entropy")
        total = builder.node("ReduceSum", [products], "cross_entropy", {"keepdims": 0})
        loss = gs.Variable(LOSS, np.float32, ())
        builder.into(loss, "Neg", [total])
        graph.inputs.append(target)
        graph.outputs.append(loss)
        graph.toposort()
        return True
