"""Names that are no UTF-8: exporters in C++ write them in the encoding of their system, and ONNX Runtime runs such models.

Python cannot read them. Protocol Buffers' encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from onnx import ModelProto

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_STRING, _MESSAGE = 9, 11  # FieldDescriptor.TYPE_...


def readable(content: bytes) -> bytes:
    r"""A serialized model that parses, its names in UTF-8: bytes that are none become `\xNN`; the same object where all are."""
    mended = _mended(memoryview(content), ModelProto.DESCRIPTOR)
    return content if mended is None else mended


def _mended(data: memoryview, kind: Any) -> bytes | None:
    """A message of this kind, None where nothing in it is to be changed."""
    parts, copied, fields = list[bytes](), 0, _fields(kind)
    for number, start, body, end in _delimited(data):
        field = fields.get(number)
        if field is None:
            continue
        new = _text(data[body:end]) if field.type == _STRING else _mended(data[body:end], field.message_type)
        if new is not None:
            parts += [bytes(data[copied:start]), _varint(number << 3 | _BYTES), _varint(len(new)), new]
            copied = end
    return b"".join([*parts, bytes(data[copied:])]) if parts else None


@cache
def _fields(kind: Any) -> Mapping[int, Any]:
    """The fields that are text or messages, by number."""
    return {field.number: field for field in kind.fields if field.type in (_STRING, _MESSAGE)}


def _delimited(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """The fields with a length: number, where the field begins, where its value begins and ends."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == _BYTES:
            size, at = _read_varint(data, at)
            yield tag >> 3, start, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _read_varint(data, at)
        else:
            at += {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)  # groups have tags only


def _text(value: memoryview) -> bytes | None:
    content = bytes(value)
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode(errors="backslashreplace").encode()
    return None


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
