"""Random networks through the whole compile: at 8 bits the file computes what the network did, whatever the batch."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from random_networks import networks

import onnxmpq
from onnxmpq.metrics.decibels import signal_to_noise

LEAST_SQNR = 25.0
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def stock(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compiles_and_agrees(model: onnx.ModelProto) -> None:
    """Weight-only, every output by itself; a softmax hides noise, its logits do not, so outputs of both kinds count."""
    _, channels, size, _ = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((8, channels, size, size)).astype(np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder) / "m.onnx", Path(folder) / "out.onnx"
        onnx.save(model, source)
        onnxmpq.compile_model(
            source, "8bit-avg", data, output=file, activations="fp32", rounding="nearest", method="size", effort="fast",
            provider="cpu", verify=False,
        )  # fmt: skip
        before, after = stock(source), stock(file)
        for batch in (1, 5):
            x = rng.standard_normal((batch, channels, size, size)).astype(np.float32)
            for name, wanted, got in zip(
                [o.name for o in before.get_outputs()],
                before.run(None, {"x": x}),
                after.run(None, {"x": x}),
                strict=True,
            ):
                assert signal_to_noise(wanted, got) >= LEAST_SQNR, name


@settings(SETTINGS, max_examples=5)
@given(networks())
def test_a_few_random_networks_compile_and_agree(model: onnx.ModelProto) -> None:
    compiles_and_agrees(model)


@pytest.mark.slow
@settings(SETTINGS, max_examples=300)
@given(networks())
def test_random_networks_compile_and_agree(model: onnx.ModelProto) -> None:
    compiles_and_agrees(model)
