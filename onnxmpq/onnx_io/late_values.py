"""Constants whose bytes are made when they are written: a graph tells its file's size without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxmpq.onnx_io.bitpack import pack_interleaved, packed_size

_NARROW: dict[int, int] = {
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2,
}  # fmt: skip


class LateValues(LazyValues):  # type: ignore[misc]
    """Values of a gs.Constant: what `elements` gives, an array of the tensor's shape, of bytes where it has 4 or 2 bits.

    These are packed; onnx-graphsurgeon itself would write one a byte. `bare` is the tensor without its bytes.
    """

    def __init__(self, data_type: int, dims: Sequence[int], elements: Callable[[], NDArray[Any]]) -> None:
        self.bare = TensorProto(data_type=data_type, dims=dims, raw_data=b"")
        super().__init__(self.bare)
        del self.tensor  # which is made of the elements when someone asks
        self._elements = elements

    @cached_property
    def tensor(self) -> TensorProto:
        """The tensor itself."""
        elements, bits = self._elements(), _NARROW.get(self.bare.data_type)
        raw = elements.tobytes() if bits is None else pack_interleaved(elements, bits)
        return TensorProto(data_type=self.bare.data_type, dims=self.bare.dims, raw_data=raw)


def raw_bytes(tensor: TensorProto) -> int:
    """Bytes of `raw_data` that a tensor of that type and shape has when it is written, STRING excluded; those below 8 bits are packed."""
    narrow = _NARROW.get(tensor.data_type)
    bits = narrow or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return packed_size(math.prod(tensor.dims), bits)
