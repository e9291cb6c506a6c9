"""One node on the way back, and what a rule of the table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxmpq.passes.gradients.emitter import Emitter
from onnxmpq.passes.matching import NoMatch, optional_input


@dataclass(frozen=True, slots=True)
class Step:
    """A node, the gradients with respect to its outputs (None for zero), and the input whose gradient is asked."""

    emit: Emitter
    node: gs.Node
    gradients: tuple[gs.Tensor | None, ...]
    index: int

    @property
    def gradient(self) -> gs.Tensor:
        """The gradient with respect to the first output, of a rule that knows no other."""
        first, *others = self.gradients
        if first is None or any(other is not None for other in others):
            raise NoMatch("the loss depends on another output than its first")
        return first

    @property
    def output(self) -> gs.Tensor:
        """The first output."""
        return self.node.outputs[0]

    @property
    def asked(self) -> gs.Tensor:
        """The input whose gradient is asked."""
        return self.node.inputs[self.index]

    def input(self, index: int = 0) -> gs.Tensor:
        """An input that the operator cannot do without."""
        return self.node.inputs[index]

    def optional(self, index: int) -> gs.Tensor | None:
        """An input, or None where it is left out."""
        return optional_input(self.node, index)


Rule = Callable[[Step], gs.Tensor | None]  # None: zero
