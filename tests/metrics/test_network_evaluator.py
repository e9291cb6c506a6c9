"""The network as a whole: float weights between Q/DQ pairs stay what they are."""

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmpq.data import InputSpec, open_data
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.network_evaluator import NetworkEvaluator
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.output_kind import OutputKind

CPU = Runtime("cpu", 1)
FLOAT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 8, 6, 6] x) => (float[n, 8, 6, 6] y) {
    y = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w, b) }"""
QUANTIZED = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 8, 6, 6] x) => (float[n, 8, 6, 6] y) {
    q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
    c = Conv <group = 8, pads = [1, 1, 1, 1]> (d, w, b)
    p = QuantizeLinear (c, t, z)  y = DequantizeLinear (p, t, z) }"""


def network(text: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    sizes = np.logspace(-2, 1, 8).astype(
        np.float32
    )  # of the channels: one scale for all of them would lose most
    values = {
        "w": rng.standard_normal((8, 1, 3, 3)).astype(np.float32) * sizes[:, None, None, None],
        "b": np.zeros(8, np.float32), "s": np.float32(0.03), "t": np.float32(0.5), "z": np.uint8(128),
    }  # fmt: skip
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in values.items() if n in read
    )
    return model


def test_the_runtime_does_not_quantize_weights_of_its_own_accord() -> None:
    model, quantized = network(FLOAT), network(QUANTIZED)
    x = np.random.default_rng(1).standard_normal((16, 8, 6, 6)).astype(np.float32)
    data = open_data({"x": x}, [InputSpec("x", np.dtype(np.float32), (None, 8, 6, 6))], samples=None)
    metric = Metric("nse", {"y": OutputKind.VALUES})
    evaluator = NetworkEvaluator(CPU, model, quantized, metric, 8)
    (found,) = evaluator.losses({}, [evaluator.expected(data)])
    expected = CPU.session(model).run({"x": x})["y"]
    plain = CPU.session(quantized, optimize=False).run({"x": x})["y"]
    noise = np.square(plain - expected).sum() / np.square(expected).sum()
    assert np.isclose(found, noise, rtol=1e-4)


def test_constants_are_put_in_place_and_stay() -> None:
    model = network(FLOAT)
    x = np.random.default_rng(2).standard_normal((4, 8, 6, 6)).astype(np.float32)
    data = open_data({"x": x}, [InputSpec("x", np.dtype(np.float32), (None, 8, 6, 6))], samples=None)
    evaluator = NetworkEvaluator(CPU, model, model, Metric("nse", {"y": OutputKind.VALUES}), 4)
    wanted = evaluator.expected(data)
    assert list(evaluator.losses({}, [wanted])) == [0]
    assert list(evaluator.losses({"w": np.zeros((8, 1, 3, 3), np.float32)}, [wanted, wanted])) == [1, 1]
    assert list(evaluator.losses({}, [wanted])) == [1]
