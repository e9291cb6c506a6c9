"""Which rounding a layer gets at each width."""

import numpy as np

from onnxmpq.rounding.candidates import Task, fitted
from onnxmpq.rounding.compensate import compensate
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.shrink import shrunk
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.testing.models import example_layer
from onnxmpq.values.quantized_weight import EVERY_GRID


def test_widths_are_compensated_from_two_bits_up() -> None:
    rng = np.random.default_rng(0)
    layer = example_layer("fc", "Gemm", ("fc",), "w", (6, 12), 0)
    weight = rng.standard_normal(layer.shape).astype(np.float32)
    x = rng.standard_normal((40, 12)) @ rng.standard_normal((12, 12))
    moments = Moments((x.T @ x)[None], x.mean(axis=0)[None], 40)
    _, rounded = fitted(Task(layer, weight, moments, [1, 2, 3], EVERY_GRID))
    found = {some.bits: some for some, _ in rounded}
    expected = {
        1: quantize_balanced(weight, layer.axis, 1),
        **compensate(weight, layer, shrunk(moments), [2, 3]),
    }
    for bits, some in expected.items():
        np.testing.assert_array_equal(found[bits].codes, some.codes)
        np.testing.assert_array_equal(found[bits].scale, some.scale)
