from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from shared import SHARED, needs_shared

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import common_shapes, trace
from onnxmpq.testing import check_pass, model_of, run
from onnxmpq.values.score import OutputKind

RNG = np.random.default_rng(0)
RUNTIME = Runtime("cpu", threads=1)


def residual() -> onnx.ModelProto:
    """A residual block with a loss that is a sum over samples."""
    return model_of(
        """g (float[N, 3, 6, 6] x) => (float[N, 4] y, float loss) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            d = Add (c, b)
            e = Relu (d)
            f = GlobalAveragePool (e)
            y = Flatten (f)
            z = Mul (y, y)
            loss = ReduceSum <keepdims = 0> (z)
        }""",
        w1=RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        w2=RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    )


def shapes_of(model: onnx.ModelProto, *counts: int) -> dict[str, tuple[int | None, ...]]:
    feeds = [{"x": np.zeros((n, 3, 6, 6), np.float32)} for n in counts]
    return common_shapes([trace(RUNTIME, model, f) for f in feeds])


def test_a_network_with_a_shortcut() -> None:
    model = residual()
    feeds = {"x": RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)}
    names = ("x", "a", "b", "c", "d", "w1", "w2", "y")
    emitted = check_pass(EmitGradients("loss", names, shapes_of(model, 1, 2)), model, feeds, kind="exposing")
    found = run(emitted, feeds)
    np.testing.assert_allclose(found["y/gradient"], 2 * found["y"], rtol=1e-5)
    np.testing.assert_array_equal(found["c/gradient"], found["d/gradient"])  # one gradient, two names
    session = RUNTIME.session(model)
    direction = RNG.standard_normal(feeds["x"].shape).astype(np.float32)
    up, down = (float(session.run({"x": feeds["x"] + s * direction})["loss"]) for s in (2**-10, -(2**-10)))
    assert (found["x/gradient"] * direction).sum() == pytest.approx((up - down) * 2**9, rel=0.02)


def test_gradients_are_those_of_each_sample_whatever_the_batch() -> None:
    model = residual()
    emitted = check_pass(EmitGradients("loss", ("x", "c"), shapes_of(model, 1, 2)), model, kind="exposing")
    x = RNG.standard_normal((3, 3, 6, 6)).astype(np.float32)
    together = run(emitted, {"x": x})
    for index in range(3):
        alone = run(emitted, {"x": x[index : index + 1]})
        for name in ("x/gradient", "c/gradient"):
            np.testing.assert_allclose(together[name][index], alone[name][0], rtol=1e-5, atol=1e-5)


def test_only_what_is_needed_is_emitted() -> None:
    model = residual()
    before = len(model.graph.node)
    emitted = check_pass(EmitGradients("loss", ("d",), shapes_of(model, 1, 2)), model, kind="exposing")
    assert [n.op_type for n in emitted.graph.node].count("Conv") == 2  # those of the forward run
    deeper = check_pass(EmitGradients("loss", ("a",), shapes_of(model, 1, 2)), model, kind="exposing")
    assert [n.op_type for n in deeper.graph.node].count("Conv") == 3
    twice = check_pass(
        EmitGradients("loss", ("a", "b", "c", "d"), shapes_of(model, 1, 2)), model, kind="exposing"
    )
    assert (
        len(twice.graph.node) == len(deeper.graph.node) + 1
    )  # an Identity for the shared gradient of c and d
    assert len(emitted.graph.node) > before


def test_a_tensor_that_the_loss_does_not_depend_on_gets_no_output() -> None:
    model = model_of("""g (float[2] x, float[2] z) => (float[2] y, float loss) {
        y = Relu (z) loss = ReduceSum <keepdims = 0> (x) }""")
    emitted = check_pass(EmitGradients("loss", ("x", "z"), {}), model, kind="exposing")
    assert [o.name for o in emitted.graph.output] == ["y", "loss", "x/gradient"]
    assert len(check_pass(EmitGradients("loss", ("z",), {}), model, kind="exposing").graph.output) == 2


def refused(model: onnx.ModelProto, rewrite: EmitGradients, message: str) -> None:
    graph = import_graph(model)
    before = export_model(graph, model).SerializeToString(deterministic=True)
    nodes = list(graph.nodes)
    with pytest.raises(ModelError, match=message):
        rewrite(graph)
    assert list(graph.nodes) == nodes  # an export leaves out what nothing reads
    assert export_model(graph, model).SerializeToString(deterministic=True) == before


def test_a_missing_rule_names_the_operator_the_node_and_what_needed_it() -> None:
    model = model_of(
        """g (float[2, 3] x) => (float loss) {
        a = Relu (x) [wave] b = Sin (a) loss = ReduceSum <keepdims = 0> (b) }""".replace("[wave] ", "")
    )
    model.graph.node[1].name = "wave"
    refused(
        model,
        EmitGradients("loss", ("x",), {}),
        r"no gradient rule for input 0 of Sin 'wave'.*'x' and 'loss'",
    )
    graph = import_graph(model)
    assert EmitGradients("loss", ("b",), {})(graph)  # behind it there is no need


@pytest.mark.parametrize(("made", "index"), [("OneHot (i, n, s)", 2), ("Range (t, nine, one)", 0)])
def test_smooth_inputs_of_operators_that_mostly_count_are_not_passed_over(made: str, index: int) -> None:
    model = model_of(
        f"g (float[2] x) => (float loss) {{ s = Neg (x) t = ReduceSum <keepdims = 0> (x) a = {made} "
        "loss = ReduceSum <keepdims = 0> (a) }",
        i=np.array([0, 1]), n=np.array(2), nine=np.array(9, np.float32), one=np.array(1, np.float32),
    )  # fmt: skip
    refused(model, EmitGradients("loss", ("x",), {}), f"no gradient rule for input {index} of {made[:5]}")


@pytest.mark.parametrize("end", ["y = Relu (z)", "y = Add (z, a)"])
def test_what_control_flow_captures_is_not_passed_over(end: str) -> None:
    model = model_of(
        """g (float[6] x, bool c) => (float loss) {
            a = Mul (x, x)
            z = If (c) <
                then_branch = one () => (float[6] o) { o = Mul (a, a) },
                else_branch = other () => (float[6] p) { p = Neg (k) }
            >
            """
        + end
        + " loss = ReduceSum <keepdims = 0> (y) }",
        k=np.ones(6, np.float32),
    )
    message = r"no gradient rule for 'a' inside If 'z', which lies between 'x' and 'loss'"
    refused(model, EmitGradients("loss", ("x",), {}), message)
    assert EmitGradients("loss", ("z",), {})(import_graph(model))


def test_a_form_without_a_gradient_leaves_the_graph_as_it_was() -> None:
    text = """g (float[1, 1, 5] x) => (float loss) {
        a = MaxPool <kernel_shape = [3]> (x) b = Relu (a) loss = ReduceSum <keepdims = 0> (b) }"""
    model = model_of('<ir_version: 8, opset_import: ["": 15]> ' + text)
    refused(model, EmitGradients("loss", ("x",), {}), r"MaxPool.*'x' needs.*overlap.*opset 16")


@pytest.mark.parametrize(("part", "expected"), [("a", [0.5, 1, 0, 0]), ("b", [0, 0, 1, 0.5])])
def test_every_part_of_a_split_has_the_type_of_the_whole(part: str, expected: list[float]) -> None:
    model = model_of(
        f"""g (float16[4] x) => (float16 loss) {{
            a, b = Split <axis = 0> (x)  y = LeakyRelu <alpha = 0.5> ({part})
            loss = ReduceSum <keepdims = 0> (y) }}"""
    )
    graph = import_graph(model)
    for tensor in graph.nodes[0].outputs:
        tensor.dtype = None
    assert EmitGradients("loss", ("x",), {"x": (4,), "a": (2,), "b": (2,), "y": (2,)})(graph)
    found = run(export_model(graph, model), {"x": np.array([-1, 2, 0.5, -0.25], np.float16)})
    assert found["x/gradient"].dtype == np.float16
    assert found["x/gradient"].tolist() == expected


def test_a_gradient_that_comes_by_a_second_output_is_not_passed_over() -> None:
    model = model_of(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2, 6] x) => (float loss) {
        y, m = LayerNormalization (x, s) z = Mul (y, m) loss = ReduceSum <keepdims = 0> (z) }""",
        s=np.ones(6, np.float32),
    )
    refused(model, EmitGradients("loss", ("x",), {}), r"LayerNormalization.*another output than its first")


def test_no_gradient_comes_by_integers() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 16]> g (float[1, 1, 6] x) => (float loss) {
        y, i = MaxPool <kernel_shape = [2], strides = [2]> (x) f = Cast <to = 1> (i) z = Mul (y, f)
        loss = ReduceSum <keepdims = 0> (z) }""")
    model = onnx.shape_inference.infer_shapes(model)
    graph = import_graph(model)
    assert EmitGradients("loss", ("x",), {"x": (1, 1, 6), "y": (1, 1, 3)})(graph)
    x = np.array([[[1, 2, 4, 3, 5, 6]]], np.float32)
    found = run(export_model(graph, model), {"x": x})
    np.testing.assert_array_equal(found[gradient_name("x")], [[[0, 1, 2, 0, 0, 5]]])


def test_what_cannot_be_asked() -> None:
    model = residual()
    refused(model, EmitGradients("loss", ("nowhere",), {}), "no tensor 'nowhere'")
    old = model_of(
        '<ir_version: 6, opset_import: ["": 11]> g (float[2] x) => (float l) { l = ReduceSum <keepdims = 0> (x) }'
    )
    graph = gs.import_onnx(old)
    with pytest.raises(ModelError, match="need opset 13, the graph is of 11"):
        EmitGradients("l", ("x",), {})(graph)


@needs_shared
@pytest.mark.parametrize("network", ["resnet20_cifar10", "resnet56_cifar10_bn"])
def test_slopes_of_a_real_network_are_those_of_its_loss(network: str) -> None:
    model = onnx.load(SHARED / "models" / f"{network}.onnx")
    output = model.graph.output[0].name
    with np.load(SHARED / "data" / "cifar10_calib_2k.npz") as arrays:
        images = arrays["images"][:4]
    x = ((images / 255 - 0.45) / 0.23).astype(np.float32)
    graph = import_graph(model)
    EmitLoss(Loss.SQUARED_ERROR, {output: OutputKind.VALUES})(graph)
    with_loss = export_model(graph, model)
    feeds = {"input": x, target_name(output): np.zeros((4, 10), np.float32)}
    shapes = common_shapes([trace(RUNTIME, with_loss, feeds)])
    weights = [i.name for i in with_loss.graph.initializer if len(i.dims) == 4][::5]
    EmitGradients(LOSS, ("input", *weights), shapes)(graph)
    found = RUNTIME.session(export_model(graph, model)).run(feeds)
    session = RUNTIME.session(with_loss)
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
        up, down = (
            float(session.run({**feeds, "input": x + s * direction})[LOSS]) for s in (2**-15, -(2**-15))
        )
        gradient = found[gradient_name("input")]
        slope, size = float((gradient * direction).sum()), float(np.linalg.norm(gradient))
        assert slope == pytest.approx((up - down) * 2**14, abs=0.05 * size)
    for weight in weights:
        assert found[gradient_name(weight)].shape == tuple(
            next(i.dims for i in with_loss.graph.initializer if i.name == weight)
        )
