"""Large constants that are added: the embeddings of positions."""

import numpy as np
import pytest

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def ops(positions: Array, behind: str = "y = MatMul (a, w)") -> list[tuple[str, int]]:
    sizes = list(positions.shape[-2:])
    text = f"g (float[N, {sizes[0]}, {sizes[1]}] x) => (float y) {{ a = Add (x, p)  {behind} }}"
    found = discover(import_graph(model_of(text, p=positions, w=floats(sizes[1], 4))), {})
    return [(layer.op, layer.axis) for layer in found]


def test_scales_run_along_the_axis_that_leaves_the_least_error() -> None:
    positions = floats(1, 128, 192)
    assert ops(positions * np.linspace(0.01, 3, 192, dtype=np.float32))[0] == ("Add", 2)
    assert ops(positions * np.linspace(0.01, 3, 128, dtype=np.float32)[:, None])[0] == ("Add", 1)


@pytest.mark.parametrize(
    ("positions", "behind"),
    [
        (floats(1, 64, 64), "y = MatMul (a, w)"),  # small
        (floats(1, 1, 20000), "y = MatMul (a, w)"),  # a bias
        (floats(1, 128, 192), "y = Relu (a)"),  # anchors
    ],
)
def test_small_ones_biases_and_what_goes_to_the_outputs_are_none(positions: Array, behind: str) -> None:
    assert "Add" not in [op for op, _ in ops(positions, behind)]
