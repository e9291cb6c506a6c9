"""Calls of a model's own functions compute the same once they are written out."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx.parser import parse_model

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.testing import run

X = np.linspace(-4, 4, 8, dtype=np.float32)

LEAKY = """<domain: "own", opset_import: ["": 18]> Leaky <slope: float = 0.25> (x) => (y) { y = LeakyRelu <alpha: float = @slope> (x) }"""
MODELS = {
    "a default": "y = own.Leaky (x)",
    "a value given": "y = own.Leaky <slope = 0.5> (x)",
    "in a branch": """c = Constant <value = bool {1}> ()
        y = If <then_branch = t () => (float[8] a) { a = own.Leaky (x) }, else_branch = e () => (float[8] b) { b = Neg (x) }> (c)""",
    "called by another function": "y = own.Twice (x)",
    "handed on by another function": "y = own.Outer (x)",
}
OTHERS = """
<domain: "own", opset_import: ["": 18, "own": 1]> Twice (x) => (y) { h = own.Leaky (x) y = own.Leaky <slope = 2.0> (h) }
<domain: "own", opset_import: ["": 18, "own": 1]> Outer <steep: float = 3.0> (x) => (y) { y = own.Leaky <slope: float = @steep> (x) }
"""


@pytest.mark.parametrize("case", MODELS)
def test_defaults_of_functions_are_kept(case: str) -> None:
    text = f'<ir_version: 10, opset_import: ["": 18, "own": 1]> g (float[8] x) => (float[8] y) {{ {MODELS[case]} }}'
    model = parse_model(text + LEAKY + OTHERS)
    written_out = export_model(import_graph(model), model)
    assert not written_out.functions
    assert_array_equal(run(written_out, {"x": X})["y"], run(model, {"x": X})["y"])
