"""What a file may hold so that its consumer runs it: data, not code. docs/targets.md gives every rule's source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from onnxmpq.errors import OptionError, nearest
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.values.option import ACTIVATION_BITS, OTHER_CODES_OPSET, Option
from onnxmpq.values.quantized_weight import Grids

Storage = Literal["packed", "native", "int8"]
Policy = Literal["kernels", "inputs"]
Provider = Literal["cpu", "cuda"]

STORAGES: tuple[Storage, ...] = get_args(Storage)
ISAS: Mapping[str, int] = {"any": 7, "vnni": 8}  # bits of weight codes that its integer kernels sum exactly
_LOWEST_OPSET = 7  # ONNX Runtime and OpenVINO; TensorRT: 9
_LEAST_HIGHEST = 13  # DequantizeLinear along an axis
_HIGHEST_OPSET = 25  # INT2; what graphs can be raised to
_LONGEST_CODE = 8
_TENSOR_BITS = (8, 4, 2)


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer of compiled files: what it may be given, and how this compile stores weights for it.

    `storages` are the ways to store weights that it reads, its default first; `storage` is the one taken:

        packed   codes of 1 to 8 bits at their own width, composed by nodes over constants
        native   INT8, INT4 and INT2 tensors that DequantizeLinear reads; widths in between are rounded up
        int8     one byte a code, whatever its width

    `tensor_bits` are the widths of its integer tensors, `direct_bits` those that it lets a DequantizeLinear read
    beside quantized activations. `folds` says that nodes over constants alone are computed once, when the file is
    loaded: without it no storage but plain DequantizeLinear makes sense; `wide` that it does so for arithmetic of
    32 bits only. `code_bits` is the width of weight codes that its integer kernels sum without saturating.
    `negative_scales` says that it takes weights whose scales are below zero. `signed_activations` asks for
    symmetric INT8 (zero point 0) instead of asymmetric UINT8, and `activation_bits` are the widths of quantized
    activations that it has kernels for, its default first. `placement` of Q/DQ pairs: "kernels" puts them on both
    sides of every integer kernel of ONNX Runtime, "inputs" before the layers and on residual sums only.
    `lowest_opset` and `highest_opset` bound what the consumer reads; `onnxruntime` is the version that it has at
    least (None: what the file itself needs). `provider` is the execution provider of ONNX Runtime that the files
    are for, None for another runtime, whose speed and kernels no compile tells.

    Raises OptionError where the fields contradict each other.
    """

    name: str
    note: str
    storages: tuple[Storage, ...] = STORAGES
    storage: Storage | None = None
    tensor_bits: tuple[int, ...] = _TENSOR_BITS
    direct_bits: tuple[int, ...] = (8, 4)
    folds: bool = True
    wide: bool = False
    code_bits: int = _LONGEST_CODE
    negative_scales: bool = False
    signed_activations: bool = False
    activation_bits: tuple[int, ...] = (8,)
    placement: Policy = "kernels"
    lowest_opset: int = _LOWEST_OPSET
    highest_opset: int = _HIGHEST_OPSET
    onnxruntime: str | None = None
    provider: Provider | None = None

    def __post_init__(self) -> None:
        for fault, found in self._faults().items():
            if found:
                raise OptionError(f"target {self.name!r}: {fault}; see docs/targets.md")

    def _faults(self) -> dict[str, bool]:
        return {
            f"storages must be some of {', '.join(STORAGES)}": not self.storages or not {*self.storages} <= {*STORAGES},
            "storage must be one of its storages": self.storage is not None and self.storage not in self.storages,
            "tensor_bits must be 8 and some of 4 and 2": 8 not in self.tensor_bits or not {*self.tensor_bits} <= {*_TENSOR_BITS},
            "direct_bits must be 8 and some of tensor_bits": 8 not in self.direct_bits or not {*self.direct_bits} <= {*self.tensor_bits},
            "packed weights need a consumer that folds": "packed" in self.storages and not self.folds,
            "code_bits must be 7 or 8": self.code_bits not in ISAS.values(),
            "activation_bits must be some of 4, 8 and 16": not self.activation_bits or not {*self.activation_bits} <= {*ACTIVATION_BITS},
            f"activation_bits of 4 or 16 need a highest_opset of {OTHER_CODES_OPSET} or more": {*self.activation_bits} != {8} and self.highest_opset < OTHER_CODES_OPSET,
            f"highest_opset must be {_LEAST_HIGHEST} or more": self.highest_opset < _LEAST_HIGHEST,
            "lowest_opset must be no more than highest_opset": self.lowest_opset > self.highest_opset,
        }  # fmt: skip

    @property
    def is_onnxruntime(self) -> bool:
        """True where ONNX Runtime itself runs the files."""
        return self.provider is not None

    @property
    def stored_as(self) -> Storage:
        """The storage taken, or else its default."""
        return self.storage or self.storages[0]

    @property
    def grids(self) -> Grids:
        """Which codes and scales its files may hold; a tensor of two bits has no odd ones beyond -1 and 1."""
        return Grids(negative=self.negative_scales, odd=self.stored_as != "native")

    @property
    def halves(self) -> bool:
        """True where scales and biases may be stored in half precision: nodes of ONNX Runtime, which folds them."""
        return self.is_onnxruntime and not self.is_plain

    @property
    def is_plain(self) -> bool:
        """True where every weight is a tensor under a DequantizeLinear, with no node between."""
        return self.stored_as == "native" or not self.folds

    def storing(self, storage: str | None) -> Target:
        """The same consumer with weights stored so; None leaves its default. Raises OptionError where it cannot."""
        if storage is None:
            return self
        if storage not in self.storages:
            raise OptionError(
                f"target {self.name} takes no weights stored {storage!r}; choose {' or '.join(self.storages)}"
            )
        return replace(self, storage=storage)

    def on(self, isa: str) -> Target:
        """The same consumer on CPUs of that kind alone. Raises OptionError with the kinds there are."""
        if isa not in ISAS:
            raise OptionError(f"isa {isa!r} is not known; choose {' or '.join(ISAS)}")
        return replace(self, code_bits=max(self.code_bits, ISAS[isa]))

    def computing(self, bits: int) -> Target:
        """The same consumer with quantized activations of that width alone. Raises OptionError where it has no kernels.

        What saturates are sums of products of bytes: beside wider activations codes have all their bits.
        """
        if bits not in self.activation_bits:
            raise OptionError(
                f"target {self.name} has no kernels for {bits}-bit activations, which gain nothing without; choose "
                f"{' or '.join(f'int{b}' for b in self.activation_bits)} or fp32, or a target that has them, such as portable"
            )
        code_bits = self.code_bits if bits == _LONGEST_CODE else _LONGEST_CODE
        return replace(self, activation_bits=(bits,), code_bits=code_bits)

    def legalize(self, option: Option, *, beside_integers: bool = False) -> Option:
        """The option as a file for this target really holds it: how wide its codes, and the tensor of them.

        `beside_integers` holds a layer in float to the rules of integer ones as well.
        """
        if not option.is_quantized:
            return option
        bits, integer = option.weight_bits, option.activation_bits is not None or beside_integers
        if self.stored_as == "native":
            bits = min(
                width for width in (self.direct_bits if integer else self.tensor_bits) if width >= bits
            )
        codes = min(bits, self.code_bits) if integer else bits
        spent = {"packed": codes, "native": bits, "int8": _LONGEST_CODE}[self.stored_as]
        return replace(option, weight_bits=codes, container_bits=spent if spent > codes else None)


# x86 without VNNI multiplies uint8 by int8 and adds pairs in int16, which saturates with 8-bit weights.
_ANY_CPU = ISAS["any"]

TARGETS = {
    target.name: target
    for target in (
        Target(
            "ort-cpu", "ONNX Runtime's CPU execution provider", code_bits=_ANY_CPU, negative_scales=True,
            onnxruntime="1.15", provider="cpu",
        ),
        Target(
            "ort-cuda", "ONNX Runtime's CUDA execution provider", negative_scales=True, onnxruntime="1.15",
            provider="cuda",
        ),
        Target(
            "openvino", "OpenVINO on the CPU", tensor_bits=(8, 4), wide=True, code_bits=_ANY_CPU,
        ),
        Target(
            "tensorrt", "TensorRT 8.5 and newer", ("native", "int8"), tensor_bits=(8,), direct_bits=(8,),
            folds=False, signed_activations=True, placement="inputs", lowest_opset=9,
        ),
        Target(
            "portable", "any runtime that reads QuantizeLinear and DequantizeLinear", ("native", "int8"),
            folds=False, code_bits=_ANY_CPU, activation_bits=(8, 16, 4),
        ),
    )
}  # fmt: skip


def find_target(name: str) -> Target:
    """The built-in target of that name, or a third party's as `file.py:NAME` or `module:NAME`.

    Raises OptionError with the names there are.
    """
    if name in TARGETS:
        return TARGETS[name]
    if not is_reference(name):
        raise OptionError(
            f"target {name!r} is not known; {nearest(name, TARGETS) or 'wanted'} of {', '.join(TARGETS)}, or your own "
            "as file.py:NAME"
        )
    found = load_attribute(name)
    if not isinstance(found, Target):
        raise OptionError(f"{name} is a {type(found).__name__}; wanted an onnxmpq.values.target.Target")
    return found
