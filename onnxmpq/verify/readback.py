"""Read the packed weights of a file back: codes, scale and width, from its structure alone.

A width is the bits of the tensors that a weight's codes are made of, divided by the number of codes: what the
file spends, whatever a note in it says. The unpacking is evaluated here in NumPy, apart from the pass that wrote
it, over the few operators that it is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from onnxmpq.errors import VerifyError
from onnxmpq.onnx_io.bitpack import packed_size, sign_extend, unpack_interleaved
from onnxmpq.values.arrays import Array, Codes, Floats

STORED_BITS: dict[int, int] = {
    TensorProto.INT8: 8, TensorProto.INT4: 4, TensorProto.INT2: 2,
    TensorProto.UINT8: 8, TensorProto.UINT4: 4, TensorProto.UINT2: 2,
}  # fmt: skip
_SIGNED = (TensorProto.INT8, TensorProto.INT4, TensorProto.INT2)
_INTEGER_CASTS: dict[int, type[np.integer[Any]]] = {
    TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8, TensorProto.UINT32: np.uint32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight as the file holds it: `codes` int8 in the weight's shape, `scale` float32 [channels] along `axis`.

    Scales of several dimensions run along as many axes, the last of which is `axis`.
    `bits` are those the file spends on one code; `stored_bytes` is the size of the codes' own tensor, or the
    weight's share of the tensors that hold several weights, rounded up; `scale_bytes` that of all scales.
    """

    codes: Codes
    scale: Floats
    axis: int
    bits: int
    stored_bytes: int
    scale_bytes: int


def read_weights(model: onnx.ModelProto) -> dict[str, StoredWeight]:
    """Every weight of the main graph that is stored as codes of 1 to 8 bits, by the name its readers use.

    All forms of PackWeights are read: DequantizeLinear along an axis (without a zero point, or with zeros) and perhaps a
    Reshape that takes the axis apart, or Cast and Mul, and perhaps a Cast to FLOAT16 behind, or codes and scales that are
    looked up by the same indices before that Cast and Mul. What is left in float is not listed. External data must be loaded.

    Raises VerifyError when a tensor's bytes do not fit its shape.
    """
    reader = _Reader(model.graph)
    stored = (read(reader, node) for node in model.graph.node for read in _FORMS.get(node.op_type, ()))
    return dict(entry for entry in stored if entry is not None)


def read_halves(model: onnx.ModelProto) -> dict[str, NDArray[np.float16]]:
    """Every FLOAT16 constant of the main graph that a Cast turns into a FLOAT tensor, by that tensor's name."""
    halves = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = (node for node in model.graph.node if _casts_to(node, TensorProto.FLOAT))
    return {n.output[0]: numpy_helper.to_array(halves[n.input[0]]) for n in casts if n.input[0] in halves}


@dataclass(frozen=True, slots=True)
class _Value:
    """A constant integer tensor, and the bits that the file spends on each of its elements."""

    array: Array
    bits: int


class _Reader:
    """The graph's tensors by name; each integer one is evaluated once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self.producers = {name: node for node in graph.node for name in node.output}
        self.halved = {n.input[0]: n.output[0] for n in graph.node if _casts_to(n, TensorProto.FLOAT16)}
        self._values: dict[str, _Value | None] = {}

    def value(self, name: str) -> _Value | None:
        """The integer tensor `name`; None where it is not made of constants by the operators known here."""
        if name not in self._values:
            self._values[name] = self._evaluate(name)
        return self._values[name]

    def constant(self, name: str) -> Array | None:
        """The values of the initializer `name`, None where there is none."""
        tensor = self._initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def scale(self, name: str) -> tuple[Array, int] | None:
        """Scales, and the bytes that the file spends on each; None where they are not made as `halve_constants` does."""
        values = self.constant(name)
        if values is not None:
            return values, values.itemsize
        node = self.producers.get(name)
        if node is not None and node.op_type == "Split":
            whole = self._single(node.input[0])
            halves = None if whole is None else self.piece(node, whole, name)
        else:
            halves = self._single(name)
        return None if halves is None else (halves, 2)

    def piece(self, split: NodeProto, whole: Array, name: str) -> Array | None:
        """What a Split along the first axis gives of `whole` under a name."""
        sizes = self.constant(split.input[1]) if len(split.input) == 2 else None
        if sizes is None or _attribute(split, "axis"):
            return None
        return np.split(whole, sizes.cumsum()[:-1])[list(split.output).index(name)]

    def _single(self, name: str) -> Array | None:
        """FLOAT16 values cast to FLOAT, and perhaps times a unit."""
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type == "Mul":
            values, unit = self._single(node.input[0]), self.constant(node.input[1])
            return None if values is None or unit is None else values * unit
        halves = self.constant(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        return None if halves is None or halves.dtype != np.float16 else halves.astype(np.float32)

    def weight_name(self, product: str) -> str:
        """The name of the weight that `product` is, or becomes by a Cast to FLOAT16 that alone reads it."""
        return self.halved.get(product, product) if self._readers[product] == 1 else product

    def _evaluate(self, name: str) -> _Value | None:
        if name in self._initializers:
            return _stored_value(self._initializers[name])
        node = self.producers.get(name)
        if node is None or node.domain or node.op_type not in _OPERATORS:
            return None
        value = self.value(node.input[0])
        return None if value is None else _OPERATORS[node.op_type](self, node, value, name)


def _stored_value(tensor: TensorProto) -> _Value | None:
    """An initializer as PackWeights writes it: an integer of up to 8 bits in `raw_data`."""
    if tensor.data_type not in STORED_BITS or not tensor.HasField("raw_data"):
        return None
    bits, shape = STORED_BITS[tensor.data_type], tuple(tensor.dims)
    count = int(np.prod(shape))
    if len(tensor.raw_data) != packed_size(count, bits):
        raise VerifyError(
            f"tensor {tensor.name!r} of {count} values of {bits} bits has {len(tensor.raw_data)} bytes, "
            f"wanted {packed_size(count, bits)}; the file is damaged, compile it again"
        )
    fields = unpack_interleaved(tensor.raw_data, bits, count).reshape(shape)
    return _Value(sign_extend(fields, bits) if tensor.data_type in _SIGNED else fields, bits)


_Operator = Callable[[_Reader, NodeProto, _Value, str], _Value | None]


def _cast(_reader: _Reader, node: NodeProto, value: _Value, _name: str) -> _Value | None:
    dtype = _INTEGER_CASTS.get(_attribute(node, "to"))
    return None if dtype is None else _Value(value.array.astype(dtype), value.bits)


def _join(reader: _Reader, node: NodeProto, value: _Value, _name: str) -> _Value | None:
    other = reader.value(node.input[1])
    return other and _Value(value.array + other.array, value.bits + other.bits)


def _split(reader: _Reader, node: NodeProto, value: _Value, name: str) -> _Value | None:
    piece = reader.piece(node, value.array, name)
    return None if piece is None else _Value(piece, value.bits)


def _with_constant(compute: Callable[[NodeProto, Array, Array], Array]) -> _Operator:
    """An operator whose second input is a parameter; one that repeats its elements spends less on each."""

    def apply(reader: _Reader, node: NodeProto, value: _Value, _name: str) -> _Value | None:
        parameter = reader.constant(node.input[1])
        if parameter is None:
            return None
        result = compute(node, value.array, parameter)
        return _Value(result, value.bits * value.array.size // max(result.size, 1))

    return apply


def _reshape(_node: NodeProto, array: Array, shape: Array) -> Array:
    return array.reshape([size or array.shape[i] for i, size in enumerate(shape.tolist())])  # 0 copies a size


_OPERATORS: dict[str, _Operator] = {
    "Add": _join,
    "BitShift": _with_constant(lambda _, array, amount: array >> amount),
    "BitwiseAnd": _with_constant(lambda _, array, mask: array & mask),
    "Cast": _cast,
    "Mod": _with_constant(lambda _, array, modulus: array % modulus),
    "Mul": _with_constant(lambda _, array, factor: array * factor),
    "Reshape": _with_constant(_reshape),
    "Split": _split,
    "Sub": _with_constant(lambda _, array, lowest: array - lowest),
}


def _read_integer(reader: _Reader, node: NodeProto) -> tuple[str, StoredWeight] | None:
    """DequantizeLinear of int8 codes along an axis."""
    value, scale = reader.value(node.input[0]), reader.scale(node.input[1])
    zero_point = reader.constant(node.input[2]) if len(node.input) == 3 else np.int8(0)
    if value is None or scale is None or zero_point is None or np.any(zero_point):
        return None
    axis = _attribute(node, "axis", 1) % max(value.array.ndim, 1)
    return _stored_weight(reader.weight_name(node.output[0]), value, scale, axis)


def _read_float(reader: _Reader, node: NodeProto) -> tuple[str, StoredWeight] | None:
    """Mul of int8 codes, cast to FLOAT, by scales [channels, 1, ...] that broadcast from the right.

    [directions, channels, 1, ...] for a recurrent weight.
    """
    cast = reader.producers.get(node.input[0])
    value = reader.value(cast.input[0]) if cast is not None and _casts_to(cast, TensorProto.FLOAT) else None
    scale = None if value is None else reader.scale(node.input[1])
    if value is None or scale is None:
        return None
    scales, size = scale
    if scales.ndim == 0:
        return None
    own = scales.shape[: max((i + 1 for i, size in enumerate(scales.shape) if size != 1), default=1)]
    axis = value.array.ndim - scales.ndim + len(own) - 1
    return _stored_weight(reader.weight_name(node.output[0]), value, (scales.reshape(own), size), axis)


def _read_stacked(reader: _Reader, node: NodeProto) -> tuple[str, StoredWeight] | None:
    """Reshape of such a DequantizeLinear, along the first axis, whose scales are then those of several axes."""
    maker, shape = reader.producers.get(node.input[0]), reader.constant(node.input[1])
    found = (
        _read_integer(reader, maker) if maker is not None and maker.op_type == "DequantizeLinear" else None
    )
    if found is None or shape is None or found[1].axis:
        return None
    flat, sizes = found[1], tuple(shape.tolist())
    own = sizes[: len(sizes) + 1 - flat.codes.ndim]
    if sizes[len(own) :] != flat.codes.shape[1:] or np.prod(own) != len(flat.scale):
        return None
    stacked = replace(flat, codes=flat.codes.reshape(sizes), scale=flat.scale.reshape(own), axis=len(own) - 1)
    return reader.weight_name(node.output[0]), stacked


def _read_lookup(reader: _Reader, node: NodeProto) -> tuple[str, StoredWeight] | None:
    """Mul of looked up codes, cast to FLOAT, by the scales looked up with them, [1, ..., rows, ..., 1]."""
    cast, steps = (reader.producers.get(name) for name in node.input)
    is_cast = cast is not None and _casts_to(cast, TensorProto.FLOAT)
    rows = reader.producers.get(cast.input[0]) if cast is not None and is_cast else None
    if rows is None or steps is None or not rows.op_type == steps.op_type == "Gather":
        return None
    value, scale = reader.value(rows.input[0]), reader.scale(steps.input[0])
    same = rows.input[1] == steps.input[1] and _attribute(rows, "axis", 0) == _attribute(steps, "axis", 0)
    if value is None or scale is None or not same:
        return None
    axis = _attribute(rows, "axis", 0) % max(value.array.ndim, 1)
    wanted = [size if i == axis else 1 for i, size in enumerate(value.array.shape)]
    scales, size = scale
    if list(scales.shape) != wanted:
        return None
    return _stored_weight(rows.input[0], value, (scales.reshape(-1), size), axis)


_FORMS = {
    "DequantizeLinear": (_read_integer,),
    "Mul": (_read_float, _read_lookup),
    "Reshape": (_read_stacked,),
}


def _stored_weight(
    name: str, value: _Value, scales: tuple[Array, int], axis: int
) -> tuple[str, StoredWeight] | None:
    codes, (scale, size) = value.array, scales
    if (
        axis < 0
        or codes.dtype != np.int8
        or scale.dtype != np.float32
        or scale.shape != codes.shape[: axis + 1][-scale.ndim :]
    ):
        return None
    return name, StoredWeight(
        codes, scale, axis, value.bits, packed_size(codes.size, value.bits), size * scale.size
    )


def _casts_to(node: NodeProto, data_type: int) -> bool:
    return node.op_type == "Cast" and bool(_attribute(node, "to") == data_type)


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
