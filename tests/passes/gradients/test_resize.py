import numpy as np
import pytest
from central_differences import check_gradients

from onnxmpq.testing import model_of

HEADER = '<ir_version: 9, opset_import: ["": 19]> '


@pytest.mark.parametrize("coordinates", [
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
])  # fmt: skip
@pytest.mark.parametrize("mode", [
    'mode = "linear"', 'mode = "nearest", nearest_mode = "floor"', 'mode = "nearest", nearest_mode = "ceil"',
    'mode = "nearest", nearest_mode = "round_prefer_floor"', 'mode = "nearest", nearest_mode = "round_prefer_ceil"',
])  # fmt: skip
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 1.5, 3], [1, 1, 0.5, 0.7]])
def test_scales(coordinates: str, mode: str, scales: list[float]) -> None:
    attrs = f'{mode}, coordinate_transformation_mode = "{coordinates}"'
    model = model_of(
        HEADER + f"g (float[1, 2, 4, 5] x) => (float[?, ?, ?, ?] y) {{ y = Resize <{attrs}> (x, , scales) }}",
        scales=np.array(scales, np.float32),
    )
    check_gradients(model, ["x"], step=0.5)


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
