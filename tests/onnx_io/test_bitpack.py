import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from onnxmpq.onnx_io.bitpack import (
    PARTS,
    cut,
    offset_codes,
    pack_interleaved,
    pack_strided,
    packed_size,
    sign_extend,
    unpack_interleaved,
)
from onnxmpq.values.quantized_weight import code_range

FIELD_BITS = st.sampled_from([1, 2, 4, 8])
NARROW_TYPES: dict[int, tuple[int, type]] = {
    TensorProto.INT4: (4, ml_dtypes.int4), TensorProto.UINT4: (4, ml_dtypes.uint4),
    TensorProto.INT2: (2, ml_dtypes.int2), TensorProto.UINT2: (2, ml_dtypes.uint2),
}  # fmt: skip


def fields(bits: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint8)


@given(FIELD_BITS, st.integers(0, 40), st.integers(0, 9))
def test_interleaved_round_trips_at_the_least_number_of_bytes(bits: int, count: int, seed: int) -> None:
    values = fields(bits, count, seed)
    data = pack_interleaved(values, bits)
    assert len(data) == packed_size(count, bits)
    np.testing.assert_array_equal(unpack_interleaved(data, bits, count), values)


@given(FIELD_BITS, st.integers(0, 40), st.integers(0, 9))
def test_one_broadcast_shift_unpacks_the_strided_layout(bits: int, count: int, seed: int) -> None:
    values = fields(bits, count, seed)
    data = np.frombuffer(pack_strided(values, bits), np.uint8)
    assert data.size == packed_size(count, bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(((data >> shifts) & (2**bits - 1)).reshape(-1)[:count], values)


def test_layouts_by_hand() -> None:
    assert pack_interleaved(np.array([1, 2, 3]), 4) == bytes([0x21, 0x03])
    assert pack_interleaved(np.array([0, 1, 2, 3, 1]), 2) == bytes([0b11100100, 0b01])
    assert pack_strided(np.array([1, 2, 3, 4]), 4) == bytes([0x31, 0x42])
    assert pack_strided(np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]), 1) == bytes([0b00001, 0b10010])


@pytest.mark.parametrize("data_type", NARROW_TYPES)
@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_interleaved_is_the_raw_data_of_onnx(data_type: int, count: int) -> None:
    bits, dtype = NARROW_TYPES[data_type]
    values = fields(bits, count, seed=count)
    codes = sign_extend(values, bits) if data_type in {TensorProto.INT4, TensorProto.INT2} else values
    proto = onnx.TensorProto(data_type=data_type, dims=[count], raw_data=pack_interleaved(codes, bits))
    read = numpy_helper.to_array(proto)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read.astype(np.int8), codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sign_extension_restores_negative_codes(bits: int) -> None:
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).astype(np.int8)
    data = pack_interleaved(codes, bits)
    np.testing.assert_array_equal(sign_extend(unpack_interleaved(data, bits, codes.size), bits), codes)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
def test_offsets_count_from_the_lowest_code(bits: int) -> None:
    low, high = code_range(bits)
    codes = np.array([-1, 1] if bits == 1 else range(low, high + 1), dtype=np.int8)
    np.testing.assert_array_equal(offset_codes(codes, bits, odd=bits == 1), np.arange(2**bits))


@pytest.mark.parametrize(("bits", "widths"), PARTS.items())
def test_parts_hold_every_bit_once(bits: int, widths: tuple[int, ...]) -> None:
    offsets = np.arange(2**bits, dtype=np.uint8)
    parts = cut(offsets, widths)
    assert sum(widths) == bits
    value = np.zeros_like(offsets)
    for part, width in zip(parts, widths, strict=True):
        assert part.max() == 2**width - 1
        value = (value << width) | part
    np.testing.assert_array_equal(value, offsets)
