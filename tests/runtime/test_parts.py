"""Parts whose sizes the runtime wants to know are loaded with them."""

import numpy as np
import onnx
import pytest

from onnxmpq.errors import EngineError
from onnxmpq.onnx_io.subgraph import extract
from onnxmpq.runtime.parts import part_session
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.testing import model_of

CPU = Runtime("cpu", threads=1)


def attention() -> onnx.ModelProto:
    """Three axes, whose heads onnx counts wrong where sizes are free."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) * 0.3 for name in ("a", "b", "c", "d")}
    return model_of(
        """<ir_version: 11, opset_import: ["" : 23]> g (float[n, 6, 16] x) => (float[n, 6, 16] y) {
          q = MatMul (x, a)  k = MatMul (x, b)  v = MatMul (x, c)
          h = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)
          y = MatMul (h, d) }""",
        **weights,
    )


@pytest.mark.parametrize("free", [(), ("c",), ("d",)])
def test_a_part_with_attention_runs_at_any_batch(free: tuple[str, ...]) -> None:
    model = attention()
    x = np.random.default_rng(1).standard_normal((3, 6, 16)).astype(np.float32)
    traced = {**trace(CPU, model, {"x": x[:1]})}
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    traced |= {
        name: trace(CPU, model_of(f"g (float[16, 16] {name}) => (y) {{ y = Identity ({name}) }}"), {name: v})[name]
        for name, v in weights.items()
    }  # fmt: skip
    part = extract(model, model.graph.node[2:], ["y"], traced, free=free)
    whole = CPU.session(tapped(model)).run({"x": x})
    feeds = {**weights, **whole, "x": x}
    found = part_session(CPU, part.model, model).run({name: feeds[name] for name in part.inputs})["y"]
    np.testing.assert_allclose(found, whole["y"], atol=1e-5)


def tapped(model: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in "qk")
    return model


def test_what_is_refused_for_another_reason_stays_so() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = NoSuchOperator (x) }")
    with pytest.raises(EngineError, match="NoSuchOperator"):
        part_session(CPU, model, model)
