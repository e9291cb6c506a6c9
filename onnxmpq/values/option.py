"""What a decision is made of: a layer, and the widths it may take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.errors import DataError

FLOAT_BITS = 32
HALF_BITS = 16
QUANTIZED_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
ACTIVATION_BITS = (4, 8, 16)
OTHER_CODES_OPSET = 21  # of QuantizeLinear to 4 and 16 bits
DIRECT_BITS = 4  # of codes that are multiplied as they are
NARROW_OPSETS = {4: 21, 2: 25}  # of tensors of that many bits
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


_OPTION = re.compile(
    r"(?P<weight>[1-8]|fp16|fp32)(?:in(?P<container>[248]))?(?:/(?P<activation>4|8|16|fp32))?"
)


def parse_option(text: str) -> Option:
    """The option that prints as `text`: `4`, `4/8`, `4in8/8` (4-bit codes in bytes), `fp16`, `8/fp32`.

    Raises DataError for anything else.
    """
    match = _OPTION.fullmatch(text)
    container = int(match["container"] or 0) if match else 0
    weight = FLOATS.get(match["weight"]) or int(match["weight"]) if match else 0
    if match is None or (container and weight >= container):
        raise DataError(
            f"{text!r} is not a width; write 1 to 8, fp16 or fp32, with /4, /8, /16 or /fp32 behind it for activations"
        )
    activation = match["activation"] or "fp32"
    return Option(weight, None if activation == "fp32" else int(activation), container or None)


Options = Mapping[str, Sequence[Option]]
