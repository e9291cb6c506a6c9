"""Options as the target really holds them: the widths of the codes, and of what the file spends on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxmpq.values.option import Option, Options
from onnxmpq.values.target import Target


def legalize(
    options: Options, target: Target, *, beside_integers: bool = False
) -> tuple[dict[str, tuple[Option, ...]], tuple[str, ...]]:
    """Every layer's options as `target.legalize` makes them, each once and still most frugal first; what it changed.

    Two options that come to the same codes in the same tensor are one: 3 and 4 bits where only INT4 is read.
    """
    distinct = {option for choices in options.values() for option in choices}
    found = {option: target.legalize(option, beside_integers=beside_integers) for option in distinct}
    held = {name: tuple(dict.fromkeys(found[o] for o in choices)) for name, choices in options.items()}
    return held, tuple(_changes({a: b for a, b in found.items() if a.is_quantized}, target))


def _changes(found: Mapping[Option, Option], target: Target) -> Iterator[str]:
    if any(not b.is_quantized for b in found.values()):
        yield (
            f"target {target.name} takes integer weights beside integer activations alone: layers that compute in float keep "
            "theirs in float"
        )
    pairs = [(a, b) for a, b in found.items() if b.is_quantized]
    wider = [(a, b) for a, b in pairs if b.stored_bits > a.weight_bits]
    raised = sorted({a.weight_bits for a, _ in wider})
    capped = {b.weight_bits for a, b in pairs if b.weight_bits < a.weight_bits}
    if raised and target.stored_as == "int8":
        yield "int8 storage spends 8 bits on every weight, whatever the width of its codes"
    elif raised:
        tensors = _listed(sorted({b.stored_bits for _, b in wider}))
        yield (
            f"{target.stored_as} storage for {target.name} rounds codes of {_listed(raised)} bits up to "
            f"tensors of {tensors} bits"
        )
    if target.is_plain and found:
        packed = "; packed ones when the file is loaded" if "packed" in target.weights.storages else ""
        yield (
            f"in ONNX Runtime {target.stored_as} weights are dequantized at every run where no integer kernel reads them "
            f"(INT8 beside int8 activations){packed}"
        )
    for bits in capped:
        yield (
            f"codes of integer layers keep within {bits} bits, which every CPU adds up exactly; --isa vnni lifts it "
            "for CPUs that have VNNI"
        )


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
