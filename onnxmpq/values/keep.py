"""`--keep GLOB=BITS`: layers whose width the user decides."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxmpq.errors import DataError, OptionError, nearest
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import QUANTIZED_BITS, Option, parse_option

_SHOWN = 3  # names of layers, where none is like what was asked


@dataclass(frozen=True, slots=True)
class Keep:
    """Layers that match `pattern` (a glob on names, or `op:Gemm`) take `option` and nothing else.

    `computes_float` is True where the pattern asked for float activations outright (`stem=8/fp32`).
    """

    pattern: str
    option: Option
    computes_float: bool = False

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read `head/*=fp32`, `op:Gemm=8`, `stem=8/fp32`. Raises OptionError for anything else."""
        pattern, _, width = text.rpartition("=")
        try:
            option = parse_option(width)
        except DataError as error:
            raise OptionError(f"--keep {text!r}: {error}") from error
        if option.container_bits is not None:
            raise OptionError(f"--keep {text!r} names a container; --storage decides what holds the codes")
        if not option.is_quantized and "/" in width:
            raise OptionError(
                f"--keep {text!r}: a layer in float computes in float; leave out {width[width.index('/') :]!r}"
            )
        if not pattern:
            raise OptionError(f"--keep {text!r} was not understood; write GLOB=BITS, for example 'head/*=8'")
        return cls(pattern, option, width.endswith("/fp32"))

    def __str__(self) -> str:
        return f"{self.pattern}={self.option}{'/fp32' if self.computes_float else ''}"

    def matches(self, layer: Layer) -> bool:
        if self.pattern.startswith("op:"):
            return fnmatch.fnmatchcase(layer.op, self.pattern[3:])
        return any(
            fnmatch.fnmatchcase(name, self.pattern) for name in (layer.name, *layer.nodes, *layer.former)
        )


def options_of(
    layers: Sequence[Layer], widths: Sequence[int], activation_bits: int | None, keeps: Sequence[Keep]
) -> dict[str, tuple[Option, ...]]:
    """What each layer may be given, most frugal first; of several patterns that match, the last one counts.

    Of `widths`, 16 and 32 let a layer stay in half or single precision, and compute in it.

    Raises OptionError for a pattern that matches no layer, naming the nearest, or that asks a width of a
    layer that cannot be quantized.
    """
    for keep in keeps:
        if not any(keep.matches(layer) for layer in layers):
            raise OptionError(f"--keep {keep.pattern!r} matches no layer; {_known(keep.pattern, layers)}")
    return {layer.name: _options(layer, widths, activation_bits, keeps) for layer in layers}


def _known(pattern: str, layers: Sequence[Layer]) -> str:
    """The patterns nearest to one that matches nothing; the first few where none is near."""
    ops = [f"op:{layer.op}" for layer in layers]
    names = list(dict.fromkeys([*(name for layer in layers for name in (layer.name, *layer.nodes)), *ops]))
    return nearest(pattern, names) or f"it could be {', '.join(names[:_SHOWN])}: see onnxmpq inspect"


def overridden(layers: Sequence[Layer], keeps: Sequence[Keep]) -> list[Keep]:
    """Patterns that decide no layer, since a later one matches every layer that they match."""
    last = [next((k for k in reversed(keeps) if k.matches(layer)), None) for layer in layers]
    return [keep for keep in keeps if not any(keep is decides for decides in last)]


def looser_options(
    layers: Sequence[Layer], widths: Sequence[int], activation_bits: int | None, keeps: Sequence[Keep]
) -> Iterator[tuple[str, dict[str, tuple[Option, ...]]]]:
    """What layers could be given if less were fixed, each with the change in words."""
    for keep in keeps:
        others = [k for k in keeps if k is not keep]
        yield f"without --keep '{keep}'", options_of(layers, widths, activation_bits, others)
    narrowest = QUANTIZED_BITS[0]
    if narrowest < min(widths):
        more = options_of(layers, [narrowest, *widths], activation_bits, keeps)
        yield f"with {narrowest} among --bits", more


def _options(
    layer: Layer, widths: Sequence[int], activation_bits: int | None, keeps: Sequence[Keep]
) -> tuple[Option, ...]:
    kept = [keep for keep in keeps if keep.matches(layer)]
    if layer.reason is not None:
        if kept and kept[-1].option.is_quantized:
            raise OptionError(
                f"--keep {kept[-1].pattern!r}: layer {layer.name!r} stays as it is: {layer.reason}"
            )
        return (Option(layer.float_bits),)
    computed = None if layer.weights_only else activation_bits
    if not kept:
        quantized = [Option(bits, computed) for bits in sorted(widths) if bits in QUANTIZED_BITS]
        floats = {Option(min(bits, layer.float_bits)) for bits in widths if bits not in QUANTIZED_BITS}
        return (*quantized, *sorted(floats))
    keep = kept[-1]
    bits = keep.option.weight_bits
    if not keep.option.is_quantized:
        return (Option(min(bits, layer.float_bits)),)
    if keep.option.activation_bits is not None and layer.weights_only:
        raise OptionError(
            f"--keep {keep.pattern!r}: layer {layer.name!r} lies in a control-flow body: weights only"
        )
    return (Option(bits, None if keep.computes_float else keep.option.activation_bits or computed),)
