"""What a decision is made about: a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxmpq.values.layout import Layout
from onnxmpq.values.option import FLOAT_BITS


@dataclass(frozen=True, slots=True)
class Layer:
    """One constant weight of an operator (`onnxmpq.operators`): the unit that gets a width.

    Nodes that share one weight are one layer.
    `layout` says how the weight is a matrix, `macs` the multiply-accumulates of all its nodes for one sample at
    the traced input shape (0 when unknown), `float_bits` what the weight takes when it is left alone (32 or 16),
    and `reason` says why it must be (None for a layer that can be quantized).
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    weight: str
    shape: tuple[int, ...]
    layout: Layout
    macs: int = 0
    positions: tuple[int, ...] = ()  # spatial size of the map that its weight is applied over
    float_bits: int = FLOAT_BITS
    bias: str | None = None  # a constant [channels] that this layer alone adds
    scale_bytes: int = (
        4  # that the file spends on a channel's scale; 2 in half precision, then its bias may be too
    )
    weights_only: bool = False  # its activations stay in floating point whatever is asked
    reason: str | None = None

    @property
    def axis(self) -> int:
        """The weight's output-channel axis."""
        return self.layout.axis

    @property
    def group(self) -> int:
        """How many groups its channels fall into."""
        return self.layout.group

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of output channels, hence of scales."""
        return self.shape[self.axis]
