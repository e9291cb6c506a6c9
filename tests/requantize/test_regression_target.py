"""The regression of a layer where a sum is no shortcut."""

import numpy as np

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.requantize.regression_target import RegressionTarget, find_regression_target
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.testing import model_of

CPU = Runtime("cpu", threads=1)


def test_a_sum_that_broadcasts_is_no_shortcut() -> None:
    weight = np.ones((4, 4, 1, 1), np.float32)
    model = model_of(
        """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {
          a = Conv (x, wa)  p = GlobalAveragePool (x)  b = Conv (p, wb)  y = Add (a, b) }""",
        wa=weight,
        wb=weight,
    )
    traced = trace(CPU, model, {"x": np.ones((2, 4, 3, 3), np.float32)})
    layers = discover(import_graph(model), {name: some.shape for name, some in traced.items()})
    found = {layer.weight: find_regression_target(layer, model, model, traced) for layer in layers}
    assert found == {name: RegressionTarget(name[1:], None, includes_bias=False) for name in ("wa", "wb")}
