import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.operators.response import response_to_ones
from onnxmpq.passes.matching import NoMatch
from onnxmpq.testing import model_of, run

WEIGHTS = {"Conv <group = 2> (x, w)": (6, 2, 3, 3), "Conv (x, w)": (5, 4, 2, 2)}
GEMMS = {"Gemm (x, w)": (4, 3), "Gemm <transB = 1> (x, w)": (3, 4)}


@pytest.mark.parametrize(("layer", "shape"), [*WEIGHTS.items(), *GEMMS.items()])
def test_it_is_what_the_layer_makes_of_ones(layer: str, shape: tuple[int, ...]) -> None:
    size = (1, 4, *shape[2:])
    sizes = ", ".join(map(str, size))
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    free = ", ".join("ABCD"[: len(size)])
    model = model_of(f"g (float[{sizes}] x) => (float[{free}] y) {{ y = {layer} }}", w=weight)
    wanted = run(model, {"x": np.ones(size, np.float32)})["y"].reshape(-1)
    np.testing.assert_allclose(response_to_ones(gs.import_onnx(model).nodes[0]), wanted, rtol=1e-5)


def test_other_operators_and_factors_are_refused() -> None:
    model = model_of(
        "g (float[1, 4] x) => (float[1, 4] y) { a = Gemm <alpha = 0.5> (x, w) y = Relu (a) }",
        w=np.ones((4, 4), np.float32),
    )
    for node in gs.import_onnx(model).nodes:
        with pytest.raises(NoMatch):
            response_to_ones(node)
