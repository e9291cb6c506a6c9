import numpy as np

from onnxmpq.passes.normalize.write_out_hard_swish import write_out_hard_swish
from onnxmpq.testing import check_pass, model_of


def test_hard_swish_is_a_product() -> None:
    model = model_of("g (float[2, 4] x) => (float[2, 4] y) { a = Neg (x) y = HardSwish (a) }")
    feeds = {"x": np.linspace(-5, 5, 8, dtype=np.float32).reshape(2, 4)}
    changed = check_pass(write_out_hard_swish, model, feeds)
    assert [node.op_type for node in changed.graph.node] == ["Neg", "HardSigmoid", "Mul"]


def test_half_precision_has_no_such_kernel() -> None:
    model = model_of("g (float16[2, 4] x) => (float16[2, 4] y) { y = HardSwish (x) }")
    import onnx_graphsurgeon as gs

    assert not write_out_hard_swish(gs.import_onnx(model))
