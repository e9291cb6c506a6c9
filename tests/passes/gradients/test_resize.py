import itertools

import numpy as np
import pytest
from central_differences import check_gradients

from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.passes.gradients.resize import weights
from onnxmpq.testing import model_of, run

HEADER = '<ir_version: 9, opset_import: ["": 19]> '


@pytest.mark.parametrize("coordinates", [
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
])  # fmt: skip
@pytest.mark.parametrize("mode", [
    'mode = "linear"', 'mode = "nearest", nearest_mode = "floor"', 'mode = "nearest", nearest_mode = "ceil"',
    'mode = "nearest", nearest_mode = "round_prefer_floor"', 'mode = "nearest", nearest_mode = "round_prefer_ceil"',
])  # fmt: skip
@pytest.mark.parametrize("scales", [
    [1, 1, 2, 2], [1, 1, 1.5, 3], [1, 1, 0.5, 0.7], [1, 1, 8 / 6, 16 / 6],
])  # fmt: skip
def test_scales(coordinates: str, mode: str, scales: list[float]) -> None:
    attrs = f'{mode}, coordinate_transformation_mode = "{coordinates}"'
    model = model_of(
        HEADER + f"g (float[1, 2, 4, 5] x) => (float[?, ?, ?, ?] y) {{ y = Resize <{attrs}> (x, , scales) }}",
        scales=np.array(scales, np.float32),
    )
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize(("coordinates", "nearest"), [
    *itertools.product(
        ("half_pixel", "align_corners", "asymmetric"), ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    ("half_pixel_symmetric", "round_prefer_floor"), ("half_pixel_symmetric", "round_prefer_ceil"),
])  # fmt: skip
def test_which_value_is_nearest_may_hang_on_the_last_bit(coordinates: str, nearest: str) -> None:
    """PyTorch's nearest, asymmetric and floor, of 6 values to 8 takes others in double precision."""
    attrs = f'nearest_mode = "{nearest}", coordinate_transformation_mode = "{coordinates}"'
    for inside, outside in itertools.product((3, 6, 7, 14), (1, 4, 8, 16, 19, 23)):
        text = f"g (float[1, 1, 1, {inside}] x) => (float[?, ?, ?, ?] y) {{ y = Resize <{attrs}> (x, , , sizes) }}"
        model = model_of(HEADER + text, sizes=np.array([1, 1, 1, outside]))
        node = import_graph(model).nodes[0]
        made = weights(node, inside, outside, outside / inside)
        eye = np.eye(inside, dtype=np.float32)
        found = np.stack([run(model, {"x": row.reshape(1, 1, 1, -1)})["y"].ravel() for row in eye], axis=1)
        np.testing.assert_array_equal(made, found, err_msg=f"{inside} to {outside}")


@pytest.mark.parametrize("sizes", [[1, 2, 8, 7], [1, 2, 3, 2]])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_sizes(sizes: list[int], mode: str) -> None:
    text = (
        f'g (float[1, 2, 4, 5] x) => (float[?, ?, ?, ?] y) {{ y = Resize <mode = "{mode}"> (x, , , sizes) }}'
    )
    check_gradients(model_of(HEADER + text, sizes=np.array(sizes, np.int64)), ["x"], step=0.5)


def test_three_axes() -> None:
    text = 'g (float[1, 1, 2, 3, 2] x) => (float[?, ?, ?, ?, ?] y) { y = Resize <mode = "linear"> (x, , scales) }'
    check_gradients(model_of(HEADER + text, scales=np.array([1, 1, 2, 2, 3], np.float32)), ["x"], step=0.5)
