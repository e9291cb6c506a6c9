"""Integer codes to the bytes of a file and back, in plain NumPy; no ONNX graph in it.

Two layouts put 8 / bits fields into a byte:

    interleaved   element i in byte i // fields, lowest bits first: how ONNX stores INT4, UINT4, INT2, UINT2
    strided       element k * bytes + j in field k of byte j: one broadcast shift by [fields, 1] unpacks it

A width that has no tensor type is cut into parts of 4, 2 and 1 bits, highest first (`PARTS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxmpq.values.arrays import Codes

Bytes = NDArray[np.uint8]

PARTS: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` fields of `bits` bits take, the last byte filled up."""
    return -(-count * bits // 8)


def pack_interleaved(values: NDArray[np.generic], bits: int) -> bytes:
    """The low `bits` (1, 2, 4 or 8) of each value as ONNX's `raw_data`, in C order; spare bits are zero."""
    return _combine(_fields(values, bits).reshape(-1, 8 // bits).T, bits)


def unpack_interleaved(data: bytes, bits: int, count: int) -> Bytes:
    """The first `count` fields of ONNX's `raw_data` as uint8, not sign-extended."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (np.frombuffer(data, np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(-1)[:count]


def pack_strided(values: NDArray[np.generic], bits: int) -> bytes:
    """The low `bits` of each value, element k * bytes + j in field k of byte j; spare fields are zero."""
    return _combine(_fields(values, bits).reshape(8 // bits, -1), bits)


def sign_extend(values: Bytes, bits: int) -> Codes:
    """Fields of `bits` bits read as two's complement."""
    sign = np.uint8(1 << (bits - 1))
    return ((values ^ sign) - sign).view(np.int8)


def offset_codes(codes: Codes, bits: int, *, odd: bool) -> Bytes:
    """Codes of up to 7 bits counted from the lowest one, 0 to 2**bits - 1; odd ones are two apart."""
    halved = (codes - np.int8(1)) // 2 if odd else codes
    return (halved + np.int8(1 << (bits - 1))).astype(np.uint8)


def cut(offsets: Bytes, widths: Sequence[int]) -> list[Bytes]:
    """Each value's bits in parts of `widths` bits, highest part first."""
    below = np.cumsum([0, *reversed(widths)])[::-1]
    return [(offsets >> low) & ((1 << (high - low)) - 1) for high, low in pairwise(below.tolist())]


def _fields(values: NDArray[np.generic], bits: int) -> Bytes:
    """Flat uint8 fields, padded with zeros to whole bytes."""
    flat = values.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    return np.pad(flat, (0, -flat.size % (8 // bits)))


def _combine(fields: Bytes, bits: int) -> bytes:
    """Bytes [m] of fields [8 / bits, m]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(fields << shifts, axis=0)
    return packed.tobytes()
