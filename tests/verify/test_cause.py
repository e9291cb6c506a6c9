import numpy as np
import onnx
import pytest

from onnxmpq.data import InputSpec, open_data
from onnxmpq.metrics.metric import Metric
from onnxmpq.normalize.prepare import prepare
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.plan import Plan
from onnxmpq.verify.cause import Looked, activation_pairs, cause_of_loss, without_pairs

RUNTIME = Runtime("cpu", 1)
X = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
FLOAT = model_of("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", w=WEIGHT)
PREPARED = prepare(RUNTIME, FLOAT, {"x": X[:1]}, integer=True, batchable=True)
PLAN = Plan({"narrow": Option(2), "wide": Option(8)})
COSTS = CostTable({"narrow": {Option(2): 1.0}, "wide": {Option(8): 0.1}}, "nse", "measured", 1)


def file(weight: np.ndarray, step: float) -> onnx.ModelProto:
    return model_of(
        """g (float[N, 4] x) => (float[N, 3] y) {
            q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = MatMul (d, w)
        }""",
        s=np.array(step, np.float32),
        z=np.array(128, np.uint8),
        w=weight,
    )


def looked() -> Looked:
    reference = RUNTIME.session(
        model_of("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", w=WEIGHT)
    )
    data = open_data({"x": X}, [InputSpec("x", np.dtype(np.float32), (None, 4))], samples=None)
    return Looked(reference, data, Metric("nse", {"y": OutputKind.VALUES}), 8)


def test_activations_that_did_it_are_named() -> None:
    said = cause_of_loss(file(WEIGHT, 10.0), PREPARED, PLAN, COSTS, RUNTIME, looked())
    assert said.startswith("its activations did it: with activations in float")
    assert "The noisiest are x (" in said
    assert "--keep 'y=8/fp32'" in said
    assert "--activations fp32" in said


def test_weights_that_did_it_are_named_with_their_bits() -> None:
    said = cause_of_loss(file(-WEIGHT, 0.05), PREPARED, PLAN, COSTS, RUNTIME, looked())
    assert said.startswith("its weights did it, most of all those of narrow (2 bits), wide (8 bits)")
    assert "a larger --budget" in said


def test_more_bits_are_not_asked_for_where_there_are_none() -> None:
    plan = Plan({"wide": Option(8)})
    said = cause_of_loss(file(-WEIGHT, 0.05), PREPARED, plan, COSTS, RUNTIME, looked())
    assert "They have all the bits there are: keep these in float, --keep 'wide=fp16'" in said
    assert "budget" not in said


def test_without_its_pairs_a_file_computes_in_float() -> None:
    model = file(WEIGHT, 10.0)
    bare = without_pairs(model, activation_pairs(model))
    np.testing.assert_allclose(RUNTIME.session(bare).run({"x": X})["y"], X @ WEIGHT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", ["d", "y"])
def test_an_output_that_is_dequantized_itself_stays(kept: str) -> None:
    model = file(WEIGHT, 10.0)
    model.graph.output[0].name = kept
    bare = without_pairs(model, activation_pairs(model))
    assert RUNTIME.session(bare).run({"x": X})[kept].shape[0] == len(X)
