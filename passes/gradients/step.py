"""One node on the way back, and what a rule of the table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import Attribute, NoMatch, attribute, optional_input


@dataclass(frozen=True, slots=True)
class Step:
    """A node, the gradients with respect to its outputs (None for zero), and the input whose gradient is asked.

    `step(op, ...)` writes a node as its emitter does.
    """

    emit: Emitter
    node: gs.Node
    gradients: tuple[gs.Tensor | None, ...]
    index: int

    def __call__(self, op: str, *operands: gs.Tensor | float, **attrs: Any) -> gs.Variable:
        return self.emit(op, *operands, **attrs)

    @property
    def g(self) -> gs.Tensor:
        """The gradient with respect to the first output, of a rule that knows no other."""
        first, *others = self.gradients
        if first is None or any(other is not None for other in others):
            raise NoMatch("the loss depends on another output than its first")
        return first

    @property
    def x(self) -> gs.Tensor:
        """The first input."""
        return self.node.inputs[0]

    @property
    def y(self) -> gs.Tensor:
        """The first output."""
        return self.node.outputs[0]

    @property
    def asked(self) -> gs.Tensor:
        """The input whose gradient is asked."""
        return self.node.inputs[self.index]

    def input(self, index: int) -> gs.Tensor:
        """An input that the operator cannot do without."""
        return self.node.inputs[index]

    def optional(self, index: int) -> gs.Tensor | None:
        """An input, or None where it is left out."""
        return optional_input(self.node, index)

    def attribute(self, name: str, default: Attribute) -> Attribute:
        """The node's attribute, or the default where it does not carry it."""
        return attribute(self.node, name, default)

    def to_asked(self, tensor: gs.Tensor) -> gs.Tensor:
        """A tensor of y's shape, summed to the shape of the asked input, which was broadcast to it."""
        return self.emit.unbroadcast(tensor, self.y, self.asked)

    def per_channel(self, tensor: gs.Tensor) -> gs.Tensor:
        """A tensor of x's rank, summed over all axes but the channels'."""
        return self.emit.sum(tensor, [0, *range(2, self.emit.rank(self.x))], keep=False)


Rule = Callable[[Step], gs.Tensor | None]  # None: zero
