import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.emit_cross_entropy import LOSS, TARGET, EmitCrossEntropy
from onnxmpq.passes.matching import NoMatch
from onnxmpq.testing import model_of, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 4)).astype(np.float32)
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
T = RNG.dirichlet(np.ones(4), 5).astype(np.float32)


@pytest.mark.parametrize(("op", "are_probabilities"), [("Identity", False), ("Softmax", True)])
def test_the_sum_over_samples(op: str, are_probabilities: bool) -> None:
    graph = gs.import_onnx(model_of(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = {op} (x) }}"))
    rewrite = EmitCrossEntropy("y", are_probabilities)
    assert rewrite(graph)
    assert not rewrite(graph)
    found = run(gs.export_onnx(graph), {"x": X, TARGET: T})
    assert found[LOSS].shape == ()
    np.testing.assert_allclose(found[LOSS], -(T * np.log(P)).sum(), rtol=1e-5)


def test_an_output_that_is_not_there() -> None:
    graph = gs.import_onnx(model_of("g (float[N, 4] x) => (float[N, 4] y) { y = Identity (x) }"))
    with pytest.raises(NoMatch, match="no output 'z'"):
        EmitCrossEntropy("z")(graph)
