import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmpq.errors import OptionError
from onnxmpq.place.half_precision import check_halves
from onnxmpq.testing.models import example_layer


def notes(largest: float) -> list[str]:
    weight = np.linspace(-largest, largest, 36, dtype=np.float32).reshape(4, 9)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight, "w")])
    model: onnx.ModelProto = helper.make_model(graph)
    return list(check_halves(model, [example_layer("head", "Gemm", ("head",), "w", (4, 9), 0)]))


@pytest.mark.parametrize("largest", [0.0, 1e-3, 1.0, 65504.0])
def test_what_fits_needs_no_word(largest: float) -> None:
    assert notes(largest) == []


@pytest.mark.parametrize(("largest", "shown"), [(65505.0, "65,505"), (1e9, r"1e\+09")])
def test_too_large_is_an_error_with_layer_value_and_remedy(largest: float, shown: str) -> None:
    with pytest.raises(
        OptionError, match=rf"'head'.*largest weight is {shown}.*ends at 65,504; keep it in fp32"
    ):
        notes(largest)


@pytest.mark.parametrize("largest", [1e-6, 1e-9])
def test_too_small_is_said(largest: float) -> None:
    (note,) = notes(largest)
    assert "'head'" in note
    assert f"{largest:.3g}" in note
