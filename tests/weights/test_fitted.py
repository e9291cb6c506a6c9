"""Which rounding a layer gets at each width."""

import numpy as np

from onnxmpq.spec import Layer
from onnxmpq.weights.compensate import compensate
from onnxmpq.weights.fitted import Task, fitted
from onnxmpq.weights.gram import Moments
from onnxmpq.weights.quantizer import EVERY_GRID
from onnxmpq.weights.rounding import quantize_balanced
from onnxmpq.weights.shrink import shrunk


def test_widths_are_compensated_from_two_bits_up() -> None:
    rng = np.random.default_rng(0)
    layer = Layer("fc", "Gemm", ("fc",), "w", (6, 12), 0)
    weight = rng.standard_normal(layer.shape).astype(np.float32)
    x = rng.standard_normal((40, 12)) @ rng.standard_normal((12, 12))
    moments = Moments((x.T @ x)[None], x.mean(axis=0)[None], 40)
    found = fitted(Task(layer, weight, moments, [1, 2, 3], EVERY_GRID)).rounded
    expected = {
        1: quantize_balanced(weight, layer.axis, 1),
        **compensate(weight, layer, shrunk(moments), [2, 3]),
    }
    for bits, some in expected.items():
        np.testing.assert_array_equal(found[bits].codes, some.codes)
        np.testing.assert_array_equal(found[bits].scale, some.scale)
