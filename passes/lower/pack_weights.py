"""Lowering pass: float weights become packed low-bit codes and the standard nodes that unpack them.

ONNX Runtime folds the unpacking when it makes a session, so a file pays for its bits only in bytes.

    8, 4, 2 bits       one INT8, INT4 or INT2 tensor a weight
    1, 3, 5, 6, 7      all weights of a width in one blob: UINT4 and UINT2 parts and one plane of single bits,
    and odd codes      joined as sums of powers of two by one chain of nodes, then one Split and a Reshape a weight

A weight may also be kept as one plain tensor under a DequantizeLinear, for runtimes that read it as it is.

Codes in a blob count up from the lowest one and become signed by one Sub at the end, so that no step overflows:
runtimes differ in what a shift or a cast does then (OpenVINO's left shift saturates).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.bitpack import (
    PARTS,
    Bytes,
    cut,
    offset_codes,
    pack_strided,
    packed_size,
)
from onnxmpq.onnx_io.late_values import LateValues
from onnxmpq.operators import OPERATORS
from onnxmpq.passes.lower.gather_codes import scales_name
from onnxmpq.passes.matching import graphs, read, redirect
from onnxmpq.values.arrays import Codes, Floats
from onnxmpq.values.option import HALF_BITS, NARROW_OPSETS
from onnxmpq.values.quantized_weight import QuantizedWeight, code_range

Form = Literal["integer", "float", "plain", "codes"]

_log = logging.getLogger(__name__)

_SIGNED = {8: TensorProto.INT8, 4: TensorProto.INT4, 2: TensorProto.INT2}
_UNSIGNED = {4: TensorProto.UINT4, 2: TensorProto.UINT2}
_BLOB_UNIT = 8  # a plane holds whole bytes, and every part of a blob has as many elements
_BEGINNING = 64  # elements of a constant that differ where it differs from another, mostly
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))

Elements = Callable[[], NDArray[Any]]
Narrow = frozenset[int]  # widths below 8 bits


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A weight to be stored as codes.

    `form` "integer" ends in a DequantizeLinear, which ONNX Runtime fuses with integer activations into
    QLinearConv and its friends; "float" ends in Cast and Mul, which it folds into a plain float weight; "plain"
    is a DequantizeLinear that reads the tensor of the codes itself; "codes" are INT8 codes under the weight's name, and
    the constant that `GatherCodes` made for its scales holds them.

    `container_bits` (8, 4 or 2) is the width of that tensor where it is wider than the codes, which are then
    stored in it one by one; "plain" needs a width that has a tensor.
    """

    weight: QuantizedWeight
    form: Form
    container_bits: int | None = None

    @property
    def stored_bits(self) -> int:
        return self.container_bits or self.weight.bits

    @property
    def axis(self) -> int:
        """The axis of the weight's output channels, counted from the first."""
        return self.weight.axis % self.weight.codes.ndim

    @property
    def codes(self) -> Codes:
        """The codes as they are stored: under a DequantizeLinear, which has one axis, stacked axes and channels are one."""
        stacked, codes = self.weight.scale.ndim - 1, self.weight.codes
        if self.form in ("float", "codes") or not stacked:
            return codes
        return codes.reshape(*codes.shape[: self.axis - stacked], -1, *codes.shape[self.axis + 1 :])

    @property
    def is_cut_odd(self) -> bool:
        """True where odd codes are stored in no more bits than they have."""
        return self.weight.is_odd and self.stored_bits == self.weight.bits


@dataclass(frozen=True, slots=True)
class HalfWeight:
    """A float32 weight to be stored as FLOAT16 and cast back."""


@dataclass(frozen=True, slots=True)
class PackWeights:
    """Store the named initializers as `weights` says; their names become the outputs of the unpacking nodes.

    So every reader, in control-flow subgraphs too, finds the dequantized weight where the weight was.
    All forms give exactly codes * scale in float32. `native2` False keeps UINT2 and INT2 tensors (opset 25;
    OpenVINO refuses them) out of the file: two-bit parts are then four to a byte in uint8. `native4` does so for UINT4
    and INT4 (opset 21). `wide` computes in
    UINT32 what else is computed in UINT8: OpenVINO does not fold shifts, products and masks of bytes, would
    unpack at every run, and rounds where a shift drops bits. `zero_points` writes out those of every DequantizeLinear
    (onnxruntime-qnn 2.7.0 computes garbage from INT4 without). A weight in the form "integer" that nodes without weights
    read as well, or lookups, is given to these in the form "float", which the runtime folds.

    Raises ModelError when codes do not fit their weight, or the graph's opset lacks a type they need.
    """

    weights: Mapping[str, PackedLayer | HalfWeight]
    native2: bool = True
    wide: bool = False
    native4: bool = True
    zero_points: bool = False

    def __call__(self, graph: gs.Graph) -> bool:
        matches = self._matches(graph)
        packed = [(constant, how) for constant, how in matches if isinstance(how, PackedLayer)]
        self._check_opset(graph, [layer.stored_bits for _, layer in packed])
        writer = _Writer(_fresh_names(graph), _WIDE if self.wide else _NARROW, self.zero_points)
        codes = _store_codes(writer, {c.name: layer for c, layer in packed}, self._narrow)
        for constant, layer in packed:
            if layer.form == "integer" and (others := _float_readers(constant)):
                whole = _scale_folded(writer, constant, layer, codes[constant.name], None)
                redirect(others, constant, whole)
            if layer.form == "codes":
                _give_scales(graph, constant, layer)
                weight = writer.node("Cast", codes[constant.name], to=TensorProto.INT8, output=constant.name)
            else:
                weight = _dequantize(writer, constant, layer, codes[constant.name])
            redirect(constant.outputs, constant, weight)
        for constant, how in matches:
            if isinstance(how, HalfWeight):
                redirect(constant.outputs, constant, _store_half(writer, constant))
        graph.nodes[:0] = writer.nodes
        return bool(matches)

    @property
    def _narrow(self) -> Narrow:
        return narrow_tensors(native2=self.native2, native4=self.native4)

    def _matches(self, graph: gs.Graph) -> list[tuple[Any, PackedLayer | HalfWeight]]:
        """The constants to be stored otherwise, in the graph's order (the plan's must not shape the file)."""
        found = _constants_named(graph, self.weights.keys())
        refusals = dict.fromkeys(self.weights.keys() - found.keys(), "no constant has that name alone")
        for name, constant in found.items():
            how = self.weights[name]
            if refusal := _refusal(graph, constant, how):
                refusals[name] = refusal
            elif isinstance(how, PackedLayer):
                _check_fit(constant, how.weight)
                _check_container(constant, how)
        for name, why in sorted(refusals.items()):
            _log.debug("pack-weights: %s is left alone: %s", name, why)
        return [(constant, self.weights[name]) for name, constant in found.items() if name not in refusals]

    def _check_opset(self, graph: gs.Graph, bits: Sequence[int]) -> None:
        needed = required_opset(bits, self.native2, self.wide, self.native4)
        if graph.opset < needed:
            widths = ", ".join(map(str, sorted(set(bits))))
            raise ModelError(
                f"weights of {widths} bits need opset {needed} and the graph has opset {graph.opset}; raise it first"
            )


def required_opset(
    bits: Iterable[int], native2: bool = True, wide: bool = False, native4: bool = True
) -> int:
    """Lowest opset whose operators and tensor types unpack all these widths (16 and 32: left in float)."""
    opset, narrow = 6, narrow_tensors(native2=native2, native4=native4)
    for width in bits:
        if width == 8:
            opset = max(opset, 13)  # DequantizeLinear along an axis
        elif width < 8:
            parts = PARTS.get(width, (width,))
            opset = max(opset, *(_part_opset(part, narrow, wide=wide) for part in parts))
    return opset


def narrow_tensors(*, native2: bool, native4: bool) -> Narrow:
    """The widths below 8 bits that there are tensors of."""
    return frozenset(width for width, has in ((2, native2), (4, native4)) if has)


def _part_opset(part: int, narrow: Narrow, *, wide: bool) -> int:
    if part in narrow:
        return NARROW_OPSETS[part]
    return 14 if wide else 18  # Sub of INT8; BitwiseAnd


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    """The integer type that unpacking computes in, and the operator that keeps the low bits of a number there."""

    data_type: int
    dtype: str
    keep: str

    def low(self, width: int) -> int:
        """The operand with which `keep` leaves the low `width` bits."""
        return (1 << width) - (self.keep == "BitwiseAnd")


_NARROW = _Arithmetic(TensorProto.UINT8, "<u1", "BitwiseAnd")
_WIDE = _Arithmetic(TensorProto.UINT32, "<u4", "Mod")


@dataclass(slots=True)
class _Writer:
    """The nodes to be added, in order; equal constants are written once."""

    fresh: Iterator[str]
    arithmetic: _Arithmetic
    zero_points: bool = False
    nodes: list[Any] = field(default_factory=list)
    constants: dict[tuple[int, tuple[int, ...]], list[tuple[Elements, Any]]] = field(default_factory=dict)

    def constant(self, data_type: int, dims: Sequence[int], elements: Elements) -> Any:
        """A constant of these elements; they are asked for when it is written, or another has its type and shape."""
        alike = self.constants.setdefault((data_type, tuple(dims)), [])
        own = elements() if alike else None
        for others, known in alike:
            if own is not None and _are_equal(others(), own):
                return known
        found = gs.Constant(next(self.fresh), LateValues(data_type, dims, elements))
        alike.append((elements, found))
        return found

    def values(self, data_type: int, values: NDArray[Any]) -> Any:
        return self.constant(data_type, values.shape, lambda: values)

    def numbers(self, dims: Sequence[int], values: Iterable[int]) -> Any:
        """A constant of the type that unpacking computes in."""
        return self.values(
            self.arithmetic.data_type, np.array([*values], self.arithmetic.dtype).reshape(dims)
        )

    def number(self, value: int) -> Any:
        return self.numbers((), [value])

    def compute_in(self, tensor: Any, data_type: int) -> Any:
        """The tensor in the type that unpacking computes in; it is of `data_type`."""
        wanted = self.arithmetic.data_type
        return tensor if data_type == wanted else self.node("Cast", tensor, to=wanted)

    def integers(self, values: Sequence[int]) -> Any:
        return self.values(TensorProto.INT64, np.array(values, "<i8"))

    def floats(self, values: Floats) -> Any:
        return self.values(TensorProto.FLOAT, values.astype("<f4"))

    def node(self, op: str, *inputs: Any, output: str | None = None, **attrs: Any) -> Any:
        result = gs.Variable(output or next(self.fresh))
        self.nodes.append(gs.Node(op, attrs=attrs, inputs=list(inputs), outputs=[result]))
        return result


def _are_equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """True where two constants of one type and shape would be the same bytes; mostly their beginnings tell."""
    return (
        one.flat[:_BEGINNING].tobytes() == other.flat[:_BEGINNING].tobytes()
        and one.tobytes() == other.tobytes()
    )


def _constants_named(graph: gs.Graph, names: Collection[str]) -> dict[str, Any]:
    """Constants that the graph or a subgraph reads; a name that several tensors have (in branches) is left out."""
    tensors = [t for part in graphs(graph) for name, t in part.tensors().items() if name in names]
    holders: dict[str, set[int]] = {}
    for tensor in tensors:
        holders.setdefault(tensor.name, set()).add(id(tensor))
    return {t.name: t for t in tensors if isinstance(t, gs.Constant) and len(holders[t.name]) == 1}


def _fresh_names(graph: gs.Graph) -> Iterator[str]:
    """Short names that no tensor has: they are most of what a packed file spends besides its weights."""
    taken = {name for part in graphs(graph) for name in part.tensors()}
    return (name for name in map("mpq_{}".format, itertools.count()) if name not in taken)


def _refusal(graph: gs.Graph, constant: Any, how: PackedLayer | HalfWeight) -> str | None:
    """Why this weight cannot be stored so, None when it can."""
    if any(output is constant for output in graph.outputs):
        return "it is a graph output"
    if constant.dtype not in _FLOATS:
        return f"its type is {constant.dtype}, not float32 or float16"
    if isinstance(how, PackedLayer):
        integer_half = how.form == "integer" and constant.dtype == np.float16
        return "integer kernels take float32 weights, this one is float16" if integer_half else None
    if constant.dtype == np.float16:
        return f"it has {HALF_BITS} bits already"
    beyond = np.abs(read(constant)).max(initial=0) > np.finfo(np.float16).max
    return "it has values that half precision cannot hold" if beyond else None


def _check_fit(constant: Any, weight: QuantizedWeight) -> None:
    shape, codes = tuple(map(int, constant.shape)), weight.codes
    if codes.shape != shape:
        raise ModelError(
            f"weight {constant.name!r} has shape {shape} and its codes {codes.shape}; "
            "quantize the weights of this very model"
        )
    last = weight.axis % len(shape) + 1
    wanted = shape[max(last - max(weight.scale.ndim, 1), 0) : last]
    if weight.scale.shape != wanted:
        raise ModelError(
            f"weight {constant.name!r} has {' x '.join(map(str, wanted))} channels along axis {weight.axis} "
            f"and scales of shape {weight.scale.shape}; one scale a channel is stored"
        )
    low, high = code_range(weight.bits, odd=weight.is_odd)
    within = low <= codes.min(initial=high) and codes.max(initial=low) <= high
    all_odd = np.bitwise_and.reduce(codes, axis=None) & 1
    if not within or (weight.is_odd and not all_odd):
        outside = (codes < low) | (codes > high) | ((codes % 2 == 0) & weight.is_odd)
        words = "odd, " if weight.is_odd else ""
        raise ModelError(
            f"weight {constant.name!r} has the code {codes[outside][0]}, which {weight.bits} bits "
            f"({words}{low} to {high}) cannot hold; clip the codes to their width"
        )


def _check_container(constant: Any, layer: PackedLayer) -> None:
    stored = layer.stored_bits
    alone = layer.container_bits is not None or layer.form == "plain"
    needed = layer.weight.bits + (layer.weight.is_odd and alone)
    if stored < needed or (stored not in _SIGNED and alone):
        raise ModelError(
            f"weight {constant.name!r} has codes of {layer.weight.bits} bits, and there is no tensor of {stored} "
            "bits that holds them one by one; tensors have 8, 4 or 2"
        )


def _store_codes(writer: _Writer, layers: Mapping[str, PackedLayer], narrow: Narrow) -> dict[str, Any]:
    """The int8, int4 or int2 tensor of each weight's codes, in the weight's shape."""
    tensors: dict[str, Any] = {}
    kinds = {name: (layer.stored_bits, layer.is_cut_odd) for name, layer in layers.items()}
    for bits, odd in sorted(set(kinds.values())):
        codes = {name: layers[name].codes for name, kind in kinds.items() if kind == (bits, odd)}
        if bits in narrow | {8} and not odd:
            for name, own in codes.items():
                tensors[name] = writer.values(_SIGNED[bits], own)
        else:
            blob = _unpack_blob(writer, bits, list(codes.values()), narrow, odd=odd)
            tensors |= _share_out(writer, blob, codes)
    return tensors


def _unpack_blob(writer: _Writer, bits: int, codes: Sequence[Codes], narrow: Narrow, *, odd: bool) -> Any:
    """Flat INT8 codes, the blob's end filled with the lowest code to whole units."""
    count = sum(own.size for own in codes)
    fill = -count % _BLOB_UNIT

    @cache
    def parts() -> list[Bytes]:
        flat = np.concatenate([own.reshape(-1) for own in codes])
        return cut(np.pad(offset_codes(flat, bits, odd=odd), (0, fill)), PARTS[bits])

    value = None
    for index, width in enumerate(PARTS[bits]):
        unpacked = _unpack_part(writer, lambda i=index: parts()[i], count + fill, width, narrow)  # type: ignore[misc]
        if value is None:
            value = unpacked
        else:
            above = writer.node("Mul", value, writer.number(1 << width))
            value = writer.node("Add", above, unpacked)
    if odd:  # the codes are two apart
        value = writer.node("Mul", value, writer.number(2))
    low, _ = code_range(bits, odd=odd)
    lowest = writer.values(TensorProto.INT8, np.array(-low, np.int8))
    return writer.node("Sub", writer.node("Cast", value, to=TensorProto.INT8), lowest)


def _unpack_part(writer: _Writer, part: Callable[[], Bytes], count: int, width: int, narrow: Narrow) -> Any:
    """Flat values of one part: a Cast where there is a tensor type, shifts of whole bytes where not."""
    if width in narrow:
        return writer.compute_in(writer.constant(_UNSIGNED[width], (count,), part), _UNSIGNED[width])
    strided = writer.constant(
        TensorProto.UINT8,
        (packed_size(count, width),),
        lambda: np.frombuffer(pack_strided(part(), width), np.uint8),
    )
    stored, keep = writer.compute_in(strided, TensorProto.UINT8), writer.arithmetic.keep
    shifts = writer.numbers((8 // width, 1), range(0, 8, width))
    rows = writer.node("BitShift", stored, shifts, direction="RIGHT")
    low = writer.node(keep, rows, writer.number(writer.arithmetic.low(width)))
    return writer.node("Reshape", low, writer.integers([-1]))


def _share_out(writer: _Writer, blob: Any, codes: Mapping[str, Codes]) -> dict[str, Any]:
    """Each weight's own part of the flat `blob`, in the weight's shape; the fill at its end goes unread."""
    sizes = [own.size for own in codes.values()]
    sizes += [-sum(sizes) % _BLOB_UNIT] * (sum(sizes) % _BLOB_UNIT > 0)
    pieces = [gs.Variable(next(writer.fresh)) for _ in sizes]
    writer.nodes.append(gs.Node("Split", inputs=[blob, writer.integers(sizes)], outputs=pieces))
    return {
        name: writer.node("Reshape", piece, writer.integers(own.shape))
        for (name, own), piece in zip(codes.items(), pieces, strict=False)
    }


def _dequantize(writer: _Writer, constant: Any, layer: PackedLayer, codes: Any) -> Any:
    """Codes times scale, taken in float32, under the weight's name and in its type."""
    scaled = _scale_folded if layer.form == "float" else _scale_by_operator
    if constant.dtype == np.float32:
        return scaled(writer, constant, layer, codes, constant.name)
    single = scaled(writer, constant, layer, codes, None)
    return writer.node("Cast", single, to=TensorProto.FLOAT16, output=constant.name)


def _scale_folded(writer: _Writer, constant: Any, layer: PackedLayer, codes: Any, output: str | None) -> Any:
    """Cast and Mul, which the runtime folds like any other nodes over constants."""
    behind = [1] * (len(constant.shape) - 1 - layer.axis)
    scale = layer.weight.scale
    scales = writer.floats(scale.reshape(*scale.shape, *behind))
    return writer.node("Mul", writer.node("Cast", codes, to=TensorProto.FLOAT), scales, output=output)


def _scale_by_operator(
    writer: _Writer, constant: Any, layer: PackedLayer, codes: Any, output: str | None
) -> Any:
    """DequantizeLinear, which the runtime does not fold but fuses where there is an integer kernel."""
    bits, scale = layer.stored_bits, layer.weight.scale
    if layer.form == "integer" and bits < 8:
        if isinstance(codes, gs.Constant):
            # Not DequantizeLinear itself: over INT4 the kernels stay float, over INT2 the model is refused.
            codes = writer.node("Cast", codes, to=TensorProto.INT8)
        bits = 8
    zeros = []
    if writer.zero_points or _wants_zero_points(constant):
        zeros.append(writer.values(_SIGNED[bits], np.zeros(scale.size, np.int8)))
    scales = writer.floats(scale.reshape(-1))
    axis = layer.axis + 1 - scale.ndim
    along = {} if axis == 1 else {"axis": axis}  # 1 is the operator's default
    if scale.ndim == 1:
        return writer.node("DequantizeLinear", codes, scales, *zeros, output=output, **along)
    flat = writer.node("DequantizeLinear", codes, scales, *zeros, output=None, **along)
    return writer.node("Reshape", flat, writer.integers([*map(int, constant.shape)]), output=output)


def _give_scales(graph: gs.Graph, constant: Any, layer: PackedLayer) -> None:
    """Put a table's scales into the constant that its rows are scaled by."""
    scales = graph.tensors()[scales_name(constant.name)]
    scales.values = layer.weight.scale.astype(np.float32).reshape(scales.shape)


def _wants_zero_points(constant: gs.Constant) -> bool:
    """True where a reader has an integer kernel that is found only where the zero points are written out, one a channel."""
    kernels = [OPERATORS[node.op].integer for node in constant.outputs if node.op in OPERATORS]
    return any(kernel is not None and kernel.wants_zero_points for kernel in kernels)


def _float_readers(constant: gs.Constant) -> list[gs.Node]:
    """The nodes beside its integer layers that read a weight."""
    others = [n for n in constant.outputs if n.op not in OPERATORS or OPERATORS[n.op].integer is None]
    return others if len(others) < len(constant.outputs) else []


def _store_half(writer: _Writer, constant: Any) -> Any:
    stored = writer.constant(TensorProto.FLOAT16, constant.shape, lambda: read(constant).astype("<f2"))
    return writer.node("Cast", stored, to=TensorProto.FLOAT, output=constant.name)
