"""What a decision is made of: a layer, and the widths it may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOAT_BITS = 32
HALF_BITS = 16
LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTIZED_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
ACTIVATION_BITS = (4, 8, 16)
OTHER_CODES_OPSET = 21  # of QuantizeLinear to 4 and 16 bits
FLOATS = {"fp16": HALF_BITS, "fp32": FLOAT_BITS}  # widths by the names that people give them


def width_name(bits: int) -> str:
    """`4`, or the name of a floating-point type."""
    return next((name for name, width in FLOATS.items() if width == bits), str(bits))


@dataclass(frozen=True, slots=True, order=True)
class Option:
    """One choice for one layer: the width of its weight's codes, of its input, and of what the file spends.

    `weight_bits` is 1 to 8, or 16 or 32 for a weight that stays in half or single precision.
    `activation_bits` is None where the layer computes in floating point. `container_bits` is the width of the
    tensor that holds the codes where that is wider than they are, else None.
    """

    weight_bits: int
    activation_bits: int | None = None
    container_bits: int | None = None

    @property
    def stored_bits(self) -> int:
        """Bits that the file spends on a weight."""
        return self.container_bits or self.weight_bits

    @property
    def is_quantized(self) -> bool:
        return self.weight_bits in QUANTIZED_BITS

    def __str__(self) -> str:
        weight = width_name(self.weight_bits)
        held = weight if self.container_bits is None else f"{weight}in{self.container_bits}"
        return held if self.activation_bits is None else f"{held}/{self.activation_bits}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One constant weight of a Conv, ConvTranspose, Gemm or MatMul: the unit that gets a width.

    Nodes that share one weight are one layer; a group of a layer's channels with a width of its own is one too.
    `axis` is the weight's output-channel axis, `macs` the multiply-accumulates of all its nodes for one sample at
    the traced input shape (0 when unknown), `float_bits` what the weight takes when it is left alone (32 or 16),
    and `reason` says why it must be (None for a layer that can be quantized).
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    weight: str
    shape: tuple[int, ...]
    axis: int
    group: int = 1
    macs: int = 0
    positions: tuple[int, ...] = ()  # spatial size of the map that its weight is applied over
    float_bits: int = FLOAT_BITS
    bias: str | None = None  # a constant [channels] that this layer alone adds
    scale_bytes: int = (
        4  # that the file spends on a channel's scale; 2 in half precision, then its bias may be too
    )
    weights_only: bool = False  # its activations stay in floating point whatever is asked
    reason: str | None = None
    part: tuple[int, ...] = ()  # where it is some output channels of the layer `part_of`: which ones
    place_bytes: int = 0  # that the file spends on the place of each of these channels in that layer
    part_of: str | None = None

    @property
    def origin(self) -> str:
        """The name of the model's layer that it is, or is a group of channels of."""
        return self.part_of or self.name

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of output channels, hence of scales."""
        return self.shape[self.axis]
