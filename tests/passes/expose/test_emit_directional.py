from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_directional import (
    EmitDirectional,
    changes_name,
    directional_name,
    layer_outputs,
    rows_of,
)
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import common_shapes, trace
from onnxmpq.testing import check_pass, model_of, run

RUNTIME = Runtime("cpu", threads=1)
RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((3, 2, 3, 3)).astype(np.float32), RNG.standard_normal(3).astype(np.float32)


def differentiated(group: int = 1) -> tuple[onnx.ModelProto, dict[str, tuple[int | None, ...]]]:
    """Two layers that share one weight; the loss is the sum of squares of what comes out."""
    model = model_of(
        f"""g (float[N, 2, 6, 6] x, float[N, 2, 5, 5] z) => (float loss) {{
            a = Conv <group = {group}> (x, w, b)
            c = Conv <group = {group}> (z, w, b)
            d = GlobalAveragePool (a)
            e = GlobalAveragePool (c)
            f = Sub (d, e)
            h = Mul (f, f)
            loss = ReduceSum <keepdims = 0> (h)
        }}""",
        w=W if group == 1 else W[:2, :1], b=B if group == 1 else B[:2],
    )  # fmt: skip
    shapes = common_shapes([trace(RUNTIME, model, feeds(n)) for n in (1, 2)])
    graph = import_graph(model)
    EmitGradients("loss", layer_outputs(graph, ["w"]), shapes)(graph)
    return export_model(graph, model), shapes


def feeds(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {n: rng.standard_normal((count, 2, s, s)).astype(np.float32) for n, s in (("x", 6), ("z", 5))}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("per_sample", [True, False])
def test_a_shared_weight_has_the_slopes_of_all_its_readers(group: int, per_sample: bool) -> None:
    model, shapes = differentiated(group)
    w, b = (W, B) if group == 1 else (W[:2, :1], B[:2])
    changes = [{"w": 0.1 * w**2, "b": 0 * b}, {"w": 0 * w, "b": b}, {"w": -0.1 * w, "b": b}]
    rewrite = EmitDirectional({"w": changes}, shapes, per_sample=per_sample)
    emitted = check_pass(rewrite, model, feeds(1), kind="exposing")
    count = 3 if per_sample else 1
    found = run(emitted, feeds(count))[directional_name("w")]
    assert found.shape == (count, 3)
    for column, change in enumerate(changes):
        losses = []
        for step in (2**-6, -(2**-6)):
            moved = {n: np.asarray(v + step * change[n], np.float32) for n, v in (("w", w), ("b", b))}
            own = onnx.ModelProto()
            own.CopyFrom(model)
            for tensor in own.graph.initializer:
                if tensor.name in moved:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(moved[tensor.name], tensor.name))
            losses.append(float(run(own, feeds(count))["loss"]))
        assert found[:, column].sum() == pytest.approx((losses[0] - losses[1]) * 2**5, rel=1e-3, abs=1e-3)


def test_a_weight_without_a_layer_or_a_gradient_is_refused() -> None:
    model, shapes = differentiated()
    with pytest.raises(ModelError, match="no layer of the main graph reads the weight 'v'"):
        EmitDirectional({"v": []}, shapes)(import_graph(model))
    bare = model_of("g (float[1, 2, 6, 6] x) => (float[1, 3, 4, 4] y) { y = Conv (x, w) }", w=W)
    with pytest.raises(ModelError, match="'w' has a gradient of its output; run emit-gradients first"):
        EmitDirectional({"w": [{"w": W}]}, {})(import_graph(bare))


@pytest.mark.parametrize("attrs", [
    "pads = [1, 1, 1, 1]", "strides = [2, 2], pads = [1, 0, 1, 2]", "dilations = [2, 2]", 'auto_pad = "SAME_UPPER", strides = [2, 1]',
])  # fmt: skip
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_sums_over_positions_first_give_the_same(attrs: str, kernel: int) -> None:
    rng = np.random.default_rng(kernel)
    weight, bias = rng.standard_normal((3, 2, kernel, kernel)).astype(np.float32), B
    model = model_of(
        f"""g (float[N, 2, 8, 8] x) => (float loss) {{
            a = Conv <{attrs}> (x, w, b)
            h = Mul (a, a)
            loss = ReduceSum <keepdims = 0> (h)
        }}""",
        w=weight, b=bias,
    )  # fmt: skip
    values = {"x": rng.standard_normal((4, 2, 8, 8)).astype(np.float32)}
    shapes = common_shapes([trace(RUNTIME, model, {"x": values["x"][:n]}) for n in (1, 2)])
    graph = import_graph(model)
    EmitGradients("loss", layer_outputs(graph, ["w"]), shapes)(graph)
    emitted = export_model(graph, model)
    changes = [{"w": rng.standard_normal(weight.shape).astype(np.float32), "b": i * bias} for i in range(6)]
    models = [
        check_pass(EmitDirectional({"w": some}, shapes), emitted, {"x": values["x"][:1]}, kind="exposing")
        for some in (changes, changes[:2], changes[2:4], changes[4:])  # two at a time go the other way
    ]
    products = [sum(node.op_type == "MatMul" for node in model.graph.node) for model in models]
    assert products[0] > max(products[1:])
    found = [run(model, values) for model in models]
    together, *pairs = [outputs[directional_name("w")] for outputs in found]
    assert together.shape == (4, 6)
    np.testing.assert_allclose(together, np.concatenate(pairs, axis=1), rtol=1e-4, atol=1e-3)


def test_changes_may_be_fed_and_are_one_input_for_all_readers() -> None:
    model, shapes = differentiated()
    changes = [{"w": 0.1 * W**2, "b": 0 * B}, {"w": 0 * W, "b": B}, {"w": -0.1 * W, "b": B}]
    found = []
    for fed in (False, True):
        graph = import_graph(model)
        assert EmitDirectional({"w": changes}, shapes, fed=fed)(graph)
        emitted = export_model(graph, model)
        given = {changes_name("w"): rows_of(changes, "w")} if fed else {}
        assert [spec.name for spec in emitted.graph.input] == ["x", "z", *given]
        found.append(run(emitted, {**feeds(3), **given})[directional_name("w")])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)
