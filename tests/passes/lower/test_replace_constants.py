import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxmpq.passes.lower.replace_constants import ReplaceConstants
from onnxmpq.testing import check_pass

TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[2, 3] x) => (float[2, 3] y) <float[3] b = {1, 2, 3}> { y = Add (x, b) }
"""
NEW = np.array([4, 5, 6], np.float32)


def test_a_constant_takes_its_new_value() -> None:
    model = check_pass(
        ReplaceConstants({"b": NEW}), onnx.parser.parse_model(TEXT), kind="lowering", decibels=-100
    )
    (bias,) = model.graph.initializer
    assert np.array_equal(numpy_helper.to_array(bias), NEW)


@pytest.mark.parametrize(
    "values", [{"other": NEW}, {"x": NEW}, {"b": NEW[:2]}, {"b": NEW.astype(np.float64)}, {}]
)
def test_what_does_not_fit_is_left_alone(values: dict[str, np.ndarray]) -> None:
    assert not ReplaceConstants(values)(gs.import_onnx(onnx.parser.parse_model(TEXT)))
