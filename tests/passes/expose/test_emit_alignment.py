import numpy as np
import pytest

from onnxmpq.passes.expose.emit_alignment import ALIGNMENT, EmitAlignment
from onnxmpq.testing import check_pass, model_of, run

BODY = " g (float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y) { a = Mul (x, x)  y = Sub (a, x) }"
X = np.random.default_rng(0).standard_normal((7, 3, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("opset", [13, 18])  # ReduceMean took its axes as an attribute, then as an input
def test_inner_products_of_centered_gram_matrices(opset: int) -> None:
    model = model_of(f'<ir_version: 8, opset_import: ["": {opset}]>' + BODY)
    emitted = check_pass(EmitAlignment(("x", "a", "y")), model, kind="exposing")
    flat = [v.reshape(7, -1).astype(np.float64) for v in (X, X**2, X**2 - X)]
    centered = [v - v.mean(axis=0) for v in flat]
    grams = np.array([(v @ v.T).ravel() for v in centered])
    found = run(emitted, {"x": X})[ALIGNMENT]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, grams @ grams.T, rtol=1e-5)


@pytest.mark.parametrize("tensors", [(), ("a", "nowhere")])
def test_nothing_to_compare(tensors: tuple[str, ...]) -> None:
    model = model_of("g (float[N, 3] x) => (float[N, 3] y) { a = Relu (x)  y = Neg (a) }")
    assert len(check_pass(EmitAlignment(tensors), model, kind="exposing").graph.output) == 1
