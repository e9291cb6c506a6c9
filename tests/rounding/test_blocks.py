"""Input channels in blocks: every column in one, none too wide, all of them together within the bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.rounding.rows import MOST_COLUMNS, block_channels, block_columns, block_count, columns
from onnxmpq.testing.models import example_layer
from onnxmpq.values.layer import Layer


def convolution(channels: int, kernel: int) -> Layer:
    return example_layer("c", "Conv", ("c",), "w", (8, channels, kernel, kernel), 0)


@pytest.mark.parametrize(
    ("layer", "blocks", "size"),
    [
        (convolution(64, 3), 1, 576),
        (convolution(455, 3), 1, 4095),
        (convolution(512, 3), 2, 2304),
        (example_layer("d", "Conv", ("d",), "w", (8, 1, 3, 3), 0, 8), 1, 9),
        (example_layer("f", "Gemm", ("f",), "w", (16, 9216), 0), 6, 1536),
        (example_layer("m", "MatMul", ("m",), "w", (4097, 16), 1), 2, 2049),
        (example_layer("t", "ConvTranspose", ("t",), "w", (8192, 4, 2, 2), 1, 2), 1, 4096),
        (convolution(3, 64), 3, 4096),
    ],
)
def test_blocks_of_known_layers(layer: Layer, blocks: int, size: int) -> None:
    assert (block_count(layer), block_columns(layer)) == (blocks, size)


@given(st.integers(1, 40_000), st.integers(1, 7))
def test_every_column_is_in_one_block(channels: int, kernel: int) -> None:
    layer = convolution(channels, kernel)
    blocks, size = block_count(layer), block_columns(layer)
    assert size == block_channels(layer) * kernel**2 <= MOST_COLUMNS
    assert (blocks - 1) * size < columns(layer) <= blocks * size
    if columns(layer) <= MOST_COLUMNS:
        assert blocks == 1
    elif block_channels(layer) > 1:
        assert blocks * size**2 <= MOST_COLUMNS**2 + size**2  # the last block may be filled up
