import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.lower.insert_dynamic_qdq import InsertDynamicQdq
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

TEXT = """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
    r = Relu (x)  [a] y = MatMul (r, w)  [b] z = Neg (r) }"""


def model() -> onnx.ModelProto:
    return model_of(TEXT, w=np.eye(4, dtype=np.float32))


def test_the_readers_named_see_codes_of_the_range_of_each_run() -> None:
    graph = import_graph(model())
    assert InsertDynamicQdq({"r": {"y"}})(graph)
    changed = export_model(graph, model())
    makers = {name: node.op_type for node in changed.graph.node for name in node.output}
    product = next(node for node in changed.graph.node if node.op_type == "MatMul")
    assert makers[product.input[0]] == "DequantizeLinear"
    session = Runtime("cpu").session(changed)
    for largest in (1.0, 1000.0):
        x = largest * np.random.default_rng(0).random((8, 4), np.float32)
        found = session.run({"x": x})
        assert np.abs(found["y"] - x).max() <= x.max() / 255 / 2 * 1.01
        assert (found["z"] == -x).all()


@pytest.mark.parametrize("readers", [{}, {"absent": {"y"}}, {"r": {"absent"}}])
def test_nothing_changes_where_nobody_is_named(readers: dict[str, set[str]]) -> None:
    graph = import_graph(model())
    assert not InsertDynamicQdq(readers)(graph)
