import numpy as np
import pytest
from central_differences import check_gradients

from onnxmpq.testing import model_of

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(op: str, axis: int) -> None:
    model = model_of(f"g (double[3, 4, 2] x) => (double[3, 4, 2] y) {{ y = {op} <axis = {axis}> (x) }}")
    check_gradients(model, ["x"], step=1e-6, tolerance=1e-7)


@pytest.mark.parametrize("shape", [[3, 2], [2, 2, 3], [2, 2, 2, 3]])
def test_batch_norm(shape: list[int]) -> None:
    constants = {n: RNG.uniform(0.5, 2, 2) for n in ("s", "b", "m", "v")}
    text = f"g (double{shape} x) => (double{shape} y) {{ y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v) }}"
    check_gradients(model_of(text, **constants), ["x", *constants], step=1e-5, tolerance=1e-6)


@pytest.mark.parametrize("shape", [[2, 3, 5], [2, 2, 3, 3]])
def test_instance_norm(shape: list[int]) -> None:
    constants = {n: RNG.uniform(0.5, 2, shape[1]).astype(np.float32) for n in ("s", "b")}
    text = f"g (float{shape} x) => (float{shape} y) {{ y = InstanceNormalization <epsilon = 0.1> (x, s, b) }}"
    check_gradients(model_of(text, **constants), ["x", "s", "b"], step=2**-6, tolerance=3e-3)


@pytest.mark.parametrize("axis", [-1, -2, 1, 2, 0])
@pytest.mark.parametrize("opset", [17, 18])
def test_layer_norm(axis: int, opset: int) -> None:
    shape = [2, 3, 4]
    constants = {n: RNG.uniform(0.5, 2, shape[axis:]) for n in ("s", "b")}
    text = f"g (double{shape} x) => (double{shape} y) {{ y = LayerNormalization <axis = {axis}, epsilon = 0.1> (x, s, b) }}"
    model = model_of(f'<ir_version: 8, opset_import: ["": {opset}]> ' + text, **constants)
    check_gradients(model, ["x", "s", "b"], step=1e-5, tolerance=1e-6)
