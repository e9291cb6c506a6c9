"""What a file may hold so that its consumer runs it: data, not code. docs/targets.md gives every rule's source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from onnxmpq.errors import OptionError, nearest
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.values.activation_range import CodeType
from onnxmpq.values.option import ACTIVATION_BITS, FLOAT_BITS, NARROW_OPSETS, OTHER_CODES_OPSET, Option
from onnxmpq.values.quantized_weight import Grids

Storage = Literal["packed", "native", "int8"]
Policy = Literal["kernels", "inputs", "dynamic", "whole"]
Provider = Literal["cpu", "cuda"]

STORAGES: tuple[Storage, ...] = get_args(Storage)
ISAS: Mapping[str, int] = {"any": 7, "vnni": 8}  # bits of weight codes that its integer kernels sum exactly
_OPSETS = (7, 25)  # from what ONNX Runtime and OpenVINO read to that of INT2, which graphs can be raised to
_LEAST_HIGHEST = 13  # DequantizeLinear along an axis
_MASKS_OPSET = 18  # BitwiseAnd
_PACKED_OPSET = 14  # Sub of INT8
_LONGEST_CODE = 8
_FEW_ROWS = 4  # with more, float is as fast
_TENSOR_BITS = (8, 4, 2)


def _require(found: str, rules: Mapping[str, bool]) -> None:
    """Raise OptionError with the first rule that does not hold of what was found."""
    for rule, holds in rules.items():
        if not holds:
            raise OptionError(f"{found}: {rule}; see docs/targets.md")


@dataclass(frozen=True, slots=True)
class WeightRules:
    """How a consumer reads weights.

    `storages` are the ways to store weights that it reads, the one that is taken first:

        packed   codes of 1 to 8 bits at their own width, composed by nodes over constants
        native   INT8, INT4 and INT2 tensors that DequantizeLinear reads; widths in between are rounded up
        int8     one byte a code, whatever its width

    `tensor_bits` are the widths of its integer tensors, `direct_bits` those that it lets a DequantizeLinear read
    beside quantized activations. `code_bits` is the width of codes that its integer kernels sum without saturating.
    `folds` says that nodes over constants alone are computed once, when the file is loaded: without it no storage
    but plain DequantizeLinear makes sense; `wide` that it does so for arithmetic of 32 bits only.
    `negative_scales` says that it takes weights whose scales are below zero, `zero_points` that it must be given those
    of every weight, which are 0. `gathers` says that it looks large tables up as codes and scales what it picked, instead
    of unpacking them when the file is loaded; `direct_rows` up to how many rows of a sample it multiplies matrices with codes
    of 4 bits as they are. `beside_floats` says that layers which compute in float may have integer weights, too.

    Raises OptionError where the fields contradict each other.
    """

    storages: tuple[Storage, ...] = STORAGES
    tensor_bits: tuple[int, ...] = _TENSOR_BITS
    direct_bits: tuple[int, ...] = (8, 4)
    code_bits: int = _LONGEST_CODE
    folds: bool = True
    wide: bool = False
    negative_scales: bool = False
    zero_points: bool = False
    gathers: bool = False
    direct_rows: int = 0
    beside_floats: bool = True

    def __post_init__(self) -> None:
        storages, tensors, direct = {*self.storages}, {*self.tensor_bits}, {*self.direct_bits}
        _require(str(self), {
            f"storages must be some of {', '.join(STORAGES)}": bool(storages) and storages <= {*STORAGES},
            "tensor_bits must be 8 and some of 4 and 2": 8 in tensors and tensors <= {*_TENSOR_BITS},
            "direct_bits must be 8 and some of tensor_bits": 8 in direct and direct <= tensors,
            "packed weights need a consumer that folds": self.folds or "packed" not in storages,
            "code_bits must be 7 or 8": self.code_bits in ISAS.values(),
        })  # fmt: skip

    def within(self, opset: int) -> WeightRules:
        """The same in files of that opset at most (13 and up), without the tensors and the arithmetic of later ones."""
        tensors = tuple(bits for bits in self.tensor_bits if NARROW_OPSETS.get(bits, 0) <= opset)
        storages = tuple(s for s in self.storages if s != "packed" or opset >= _PACKED_OPSET)
        return replace(
            self, storages=storages or ("int8",), tensor_bits=tensors, wide=self.wide or opset < _MASKS_OPSET,
            direct_bits=tuple(bits for bits in self.direct_bits if bits in tensors),
        )  # fmt: skip

    def summing(self, bits: int) -> WeightRules:
        """The same where integer kernels sum codes of that width, or wider ones, without saturating."""
        return replace(self, code_bits=max(self.code_bits, bits))


@dataclass(frozen=True, slots=True)
class ActivationRules:
    """How a consumer computes with quantized activations.

    `bits` are the widths that it has kernels for, its default first. `signed` asks for symmetric INT8 (zero point 0)
    instead of asymmetric UINT8. `placement` of Q/DQ pairs: "kernels" puts them on both sides of every integer kernel
    of ONNX Runtime, "inputs" before the layers and on residual sums only, "dynamic" before matrices, by the range of each run, "whole" on
    everything that integer kernels could read or make, results of layers and of the graph too.

    Raises OptionError for widths that there are not.
    """

    bits: tuple[int, ...] = (8,)
    signed: bool = False
    placement: Policy = "kernels"

    def __post_init__(self) -> None:
        known = bool(self.bits) and {*self.bits} <= {*ACTIVATION_BITS}
        _require(str(self), {"bits must be some of 4, 8 and 16": known})

    def codes(self, bits: int | None = None) -> CodeType:
        """The integers that hold activations of that width, by default of its first."""
        return CodeType(bits or self.bits[0], self.signed)


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer of compiled files, and what it may be given.

    `note` says in words what it is, `opsets` are the lowest and the highest that it reads, `onnxruntime` the version
    that it has at least (None: what the file itself needs). `provider` is the execution provider of ONNX Runtime
    that the files are for, None for another runtime, whose speed and kernels no compile tells.

    Raises OptionError where the fields contradict each other.
    """

    name: str
    note: str
    weights: WeightRules = WeightRules()
    activations: ActivationRules = ActivationRules()
    opsets: tuple[int, int] = _OPSETS
    onnxruntime: str | None = None
    provider: Provider | None = None

    def __post_init__(self) -> None:
        lowest, highest = self.opsets
        holds = {*self.activations.bits} == {8} or highest >= OTHER_CODES_OPSET
        _require(f"target {self.name!r} of opsets {lowest} to {highest}", {
            f"activations of 4 or 16 bits need a highest opset of {OTHER_CODES_OPSET} or more": holds,
            f"the highest opset must be {_LEAST_HIGHEST} or more": highest >= _LEAST_HIGHEST,
            "the lowest opset must be no more than the highest": lowest <= highest,
        })  # fmt: skip

    @property
    def is_onnxruntime(self) -> bool:
        """True where ONNX Runtime itself runs the files."""
        return self.provider is not None

    @property
    def stored_as(self) -> Storage:
        """The storage taken."""
        return self.weights.storages[0]

    @property
    def grids(self) -> Grids:
        """Which codes and scales its files may hold; a tensor of two bits has no odd ones beyond -1 and 1."""
        return Grids(negative=self.weights.negative_scales, odd=self.stored_as != "native")

    @property
    def halves(self) -> bool:
        """True where scales and biases may be stored in half precision: nodes of ONNX Runtime, which folds them."""
        return self.is_onnxruntime and not self.is_plain

    @property
    def is_plain(self) -> bool:
        """True where every weight is a tensor under a DequantizeLinear, with no node between."""
        return self.stored_as == "native" or not self.weights.folds

    def within(self, opset: int) -> Target:
        """The same consumer of files of that opset at most. Raises OptionError where its activations need a later one."""
        if opset >= self.opsets[1]:
            return self
        opsets = (min(self.opsets[0], opset), opset)
        return replace(self, weights=self.weights.within(opset), opsets=opsets)

    def storing(self, storage: str | None) -> Target:
        """The same consumer with weights stored so; None leaves its default. Raises OptionError where it cannot."""
        if storage is None:
            return self
        storages = self.weights.storages
        if storage not in storages:
            raise OptionError(
                f"target {self.name} takes no weights stored {storage!r}; choose {' or '.join(storages)}"
            )
        taken_first = tuple(sorted(storages, key=lambda known: known != storage))
        return replace(self, weights=replace(self.weights, storages=taken_first))

    def on(self, isa: str) -> Target:
        """The same consumer on CPUs of that kind alone. Raises OptionError with the kinds there are."""
        if isa not in ISAS:
            raise OptionError(f"isa {isa!r} is not known; choose {' or '.join(ISAS)}")
        return replace(self, weights=self.weights.summing(ISAS[isa]))

    def computing(self, bits: int) -> Target:
        """The same consumer with quantized activations of that width alone. Raises OptionError where it has no kernels.

        What saturates are sums of products of bytes: beside wider activations codes have all their bits.
        """
        if bits not in self.activations.bits:
            raise OptionError(
                f"target {self.name} has no kernels for {bits}-bit activations, which gain nothing without; choose "
                f"{' or '.join(f'int{b}' for b in self.activations.bits)} or fp32, or a target that has them, such as portable"
            )
        weights = self.weights if bits == _LONGEST_CODE else self.weights.summing(_LONGEST_CODE)
        return replace(self, weights=weights, activations=replace(self.activations, bits=(bits,)))

    def in_float(self) -> Target:
        """The same consumer, activations in float somewhere. Raises OptionError where it takes no integer weights beside these."""
        if not self.weights.beside_floats:
            raise OptionError(
                f"target {self.name} takes integer weights beside integer activations alone; choose "
                f"{' or '.join(f'int{b}' for b in self.activations.bits)}"
            )
        return self

    def dynamic(self) -> Target:
        """The same consumer with ranges of activations that are found when a file runs. Raises OptionError where it finds none."""
        if self.provider != "cpu":
            raise OptionError(
                f"target {self.name} has no kernels for activations whose range is found when the file runs; choose int8 or "
                "fp32, or --target ort-cpu"
            )
        return replace(
            self.computing(_LONGEST_CODE), activations=ActivationRules((_LONGEST_CODE,), placement="dynamic")
        )

    def legalize(self, option: Option, *, beside_integers: bool = False) -> Option:
        """The option as a file for this target really holds it: how wide its codes, and the tensor of them.

        `beside_integers` holds a layer in float to the rules of integer ones as well.
        """
        if not option.is_quantized:
            return option
        if option.activation_bits is None and not self.weights.beside_floats:
            return Option(FLOAT_BITS)
        rules, bits = self.weights, option.weight_bits
        integer = option.activation_bits is not None or beside_integers
        if self.stored_as == "native":
            tensors = rules.direct_bits if integer else rules.tensor_bits
            bits = min(width for width in tensors if width >= bits)
        codes = min(bits, rules.code_bits) if integer else bits
        spent = {"packed": codes, "native": bits, "int8": _LONGEST_CODE}[self.stored_as]
        return replace(option, weight_bits=codes, container_bits=spent if spent > codes else None)


# x86 without VNNI multiplies uint8 by int8 and adds pairs in int16, which saturates with 8-bit weights.
_ANY_CPU = ISAS["any"]

TARGETS = {
    target.name: target
    for target in (
        Target(
            "ort-cpu", "ONNX Runtime's CPU execution provider",
            WeightRules(code_bits=_ANY_CPU, negative_scales=True, gathers=True), onnxruntime="1.15",
            provider="cpu",
        ),
        Target(
            "ort-cpu-tokens", "ONNX Runtime's CPU execution provider, fed one token at a time",
            WeightRules(code_bits=_ANY_CPU, negative_scales=True, gathers=True, direct_rows=_FEW_ROWS), onnxruntime="1.26",
            provider="cpu",
        ),
        Target(
            "ort-cuda", "ONNX Runtime's CUDA execution provider",
            WeightRules(negative_scales=True), onnxruntime="1.15", provider="cuda",
        ),
        Target(
            "openvino", "OpenVINO on the CPU",
            WeightRules(tensor_bits=(8, 4), code_bits=_ANY_CPU, wide=True),
        ),
        Target(
            "tensorrt", "TensorRT 8.5 and newer",
            WeightRules(("native", "int8"), tensor_bits=(8,), direct_bits=(8,), folds=False),
            ActivationRules(signed=True, placement="inputs"), opsets=(9, 25),
        ),
        Target(
            "portable", "any runtime that reads QuantizeLinear and DequantizeLinear",
            WeightRules(("native", "int8"), code_bits=_ANY_CPU, folds=False, zero_points=True),
            ActivationRules((8, 16, 4)),
        ),
        Target(
            "qnn", "Qualcomm's HTP through ONNX Runtime's QNN execution provider",
            WeightRules(("native", "int8"), tensor_bits=(8, 4), folds=False, zero_points=True, beside_floats=False),
            ActivationRules((8, 16), placement="whole"),
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
        raise OptionError(f"{name} is a {type(found).__name__}; wanted an onnxmpq.Target")
    return found
