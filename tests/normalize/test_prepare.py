"""From any exporter's graph to a clean one, proved."""

import re

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxmpq.data.input_shapes import apply_shapes, one_sample
from onnxmpq.errors import EngineError, ModelError
from onnxmpq.normalize import prepare as prepare_module
from onnxmpq.normalize.prepare import highest_opset, normalised, prepare, runnable
from onnxmpq.normalize.proof import prove
from onnxmpq.onnx_io.short_names import short_name
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.keep import Keep

CPU = Runtime("cpu", threads=1)


def filled(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def old_network() -> onnx.ModelProto:
    """Opset 9: BatchNorm to fold, an Upsample that later opsets lack, a constant shift, a Softmax of old meaning."""
    return filled(
        """
        <ir_version: 4, opset_import: ["" : 9]>
        g (float[n, 3, 8, 8] x) => (float[n, 16] y)
        {
          a = Conv <pads = [1, 1, 1, 1]> (x, w)
          b = BatchNormalization (a, scale, shift, mean, var)
          c = Relu (b)
          d = Upsample <mode = "nearest"> (c, by)
          e = GlobalMaxPool (d)
          f = Flatten (e)
          h = Gemm (f, v, u)
          y = Softmax <axis = 1> (h)
        }
        """,
        w=(4, 3, 3, 3), scale=(4,), shift=(4,), mean=(4,), var=(4,), v=(4, 16), u=(16,),
    )  # fmt: skip


def test_an_old_network_is_raised_folded_and_still_the_same() -> None:
    model = old_network()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "by"))
    sample = one_sample(apply_shapes(CPU.session(model).inputs, {}), 0)
    prepared = prepare(CPU, model, sample, integer=False, batchable=True)
    ops = [node.op_type for node in prepared.model.graph.node]
    assert "BatchNormalization" not in ops
    assert "Upsample" not in ops
    assert next(o.version for o in prepared.model.opset_import if not o.domain) == 13
    assert [layer.op for layer in prepared.layers] == ["Conv", "Gemm"]
    assert prepared.metric.name == "soft-kl"
    assert prepared.batch_size > 1
    before, after = (CPU.session(m).run(sample)["y"] for m in (model, prepared.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-7)


def test_what_the_runtime_refuses_is_cured_by_explicit_pads() -> None:
    model = filled(
        """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[1, 3, 8, 8] x) => (float[1, 4, a, b] y)
        { y = Conv <auto_pad = "SAME_UPPER", dilations = [2, 2]> (x, w) }
        """,
        w=(4, 3, 3, 3),
    )
    with pytest.raises(EngineError):
        CPU.session(model).run(one_sample(apply_shapes(CPU.session(model).inputs, {}), 0))
    cured, session = runnable(CPU, model)
    assert session.run(one_sample(apply_shapes(session.inputs, {}), 0))["y"].shape == (1, 4, 8, 8)
    assert cured.graph.node[0].attribute


def test_implicit_pads_of_known_sizes_become_explicit() -> None:
    model = filled(
        """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 3, 8, 9] x) => (float[n, 4, a, b] y, float[n, 4, c, d] z)
        {
          h = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)
          y = MaxPool <auto_pad = "SAME_LOWER", kernel_shape = [2, 2], strides = [2, 2]> (h)
          z = Conv <auto_pad = "VALID"> (x, v)
        }
        """,
        w=(4, 3, 3, 3), v=(4, 3, 3, 3),
    )  # fmt: skip
    sample = one_sample(apply_shapes(CPU.session(model).inputs, {}), 0)
    prepared = prepare(CPU, model, sample, integer=False, batchable=True)
    attributes = {a.name: a for node in prepared.model.graph.node for a in node.attribute}
    assert "auto_pad" not in attributes
    assert [list(a.ints) for n in prepared.model.graph.node[:1] for a in n.attribute if a.name == "pads"] == [
        [0, 1, 1, 1]
    ]


def test_what_nothing_cures_keeps_the_runtimes_message() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Nonsense (x) }'
    )
    with pytest.raises(EngineError, match="Nonsense"):
        runnable(CPU, model)


@pytest.mark.parametrize(
    "body", ["y = Relu (x)", "w = ConstantOfShape (x_shape) \n x_shape = Shape (x) \n y = Add (x, w)"]
)
def test_a_model_without_weights_is_refused(body: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[2, 3] x) => (float[2, 3] y) {{ {body} }}'
    )
    with pytest.raises(ModelError, match="no weights to quantize"):
        prepare(CPU, model, {"x": np.ones((2, 3), np.float32)}, integer=False, batchable=False)


def test_a_pass_that_changed_the_result_is_caught() -> None:
    model = filled(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[1, 4] x) => (float[1, 4] y) { y = MatMul (x, w) }',
        w=(4, 4),
    )
    sample = {"x": np.ones((1, 4), np.float32)}
    reference = CPU.session(model).run(sample)
    prove(CPU, model, sample, reference, 90, "doing nothing")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    with pytest.raises(ModelError, match="changed output 'y'"):
        prove(CPU, model, sample, reference, 90, "replacing the weight")


def labelled(
    body: str, changed: int, of: int = 200
) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array]]:
    """A model that gives integers [1, of], its sample, and a reference that differs in `changed` of them."""
    model = filled(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[1, 4, {of}] x) => (y) {{ {body} }}', w=(4, 4, 1)
    )
    sample = {"x": np.random.default_rng(1).standard_normal((1, 4, of)).astype(np.float32)}
    reference = {name: value.copy() for name, value in CPU.session(model).run(sample).items()}
    reference["y"].reshape(-1)[:changed] += 1
    return model, sample, reference


def test_ties_may_part_a_few_integers_behind_a_layer() -> None:
    body = "h = Conv (x, w) \n y = ArgMax <axis = 1, keepdims = 0> (h)"
    prove(CPU, *labelled(body, 2), 90, "reordering")
    with pytest.raises(ModelError, match="changed output 'y'"):
        prove(CPU, *labelled(body, 3), 90, "reordering")
    with pytest.raises(ModelError, match="changed output 'y'"):  # few in all: each counts
        prove(CPU, *labelled(body, 1, of=20), 90, "reordering")
    model, sample, reference = labelled(body, 0)
    with pytest.raises(ModelError, match="changed output 'y'"):
        prove(CPU, model, sample, {"y": reference["y"][:, :-1]}, 90, "reordering")


@pytest.mark.parametrize(
    "body",
    [
        "y = ArgMax <axis = 1, keepdims = 0> (x)",  # of the input itself: nothing is rounded
        "h = Conv (x, w) \n s = Shape (h) \n y = ConstantOfShape <value = int64[1] {7}> (s)",
    ],
)
def test_integers_that_no_layer_decides_are_exact(body: str) -> None:
    prove(CPU, *labelled(body, 0), 90, "reordering")
    with pytest.raises(ModelError, match="changed output 'y'"):
        prove(CPU, *labelled(body, 1), 90, "reordering")


QUANTIZED = {
    "dynamic": "q, s, z = DynamicQuantizeLinear (x)  c = MatMulInteger (q, codes, z)  f = Cast <to = 1> (c)  y = Mul (f, s)",
    "operators": "q = QuantizeLinear (x, one, u)  c = QLinearMatMul (q, one, u, codes, one, zero, one, u)  y = DequantizeLinear (c, one, u)",
    "pairs": "q = QuantizeLinear (x, one, u)  d = DequantizeLinear (q, one, u)  w = DequantizeLinear (codes, one, zero)  y = MatMul (d, w)",
    "weights": "w = DequantizeLinear (codes, one, zero)  y = MatMul (x, w)",
    "blocks": "y = com.microsoft.MatMulNBits <K = 16, N = 4, bits = 4, block_size = 16> (x, packed, scales)",
}


@pytest.mark.parametrize("nodes", QUANTIZED.values(), ids=QUANTIZED)
@pytest.mark.parametrize("integer", [False, True])
def test_a_model_without_float_weights_is_called_quantized_with_the_remedy(nodes: str, integer: bool) -> None:
    constants: dict[str, Array] = {
        "codes": np.ones((16, 4), np.int8), "one": np.ones((), np.float32), "u": np.zeros((), np.uint8), "zero": np.zeros((), np.int8),
        "packed": np.ones((4, 1, 8), np.uint8), "scales": np.ones(4, np.float32),
    }  # fmt: skip
    text = f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[1, 16] x) => (float[1, 4] y) {{ {nodes} }}"""
    read = {name: value for name, value in constants.items() if re.search(rf"\b{name}\b", nodes)}
    sample = {"x": np.ones((1, 16), np.float32)}
    with pytest.raises(ModelError, match=r"is quantized already: .*; compile the float model") as caught:
        prepare(CPU, model_of(text, **read), sample, integer=integer, batchable=False)
    assert "--activations" not in str(caught.value)


def test_float_weights_beside_quantized_ones_that_keep_activations_in_float() -> None:
    text = "g (float[1, 4] x) => (float[1, 4] y) { w = DequantizeLinear (q, s)  v = MatMul (x, w)  y = MatMul (v, u) }"
    constants: dict[str, Array] = {
        "q": np.ones((4, 4), np.int8),
        "s": np.array(0.1, np.float32),
        "u": np.eye(4, dtype=np.float32),
    }
    sample = {"x": np.ones((1, 4), np.float32)}
    prepared = prepare(CPU, model_of(text, **constants), sample, integer=True, batchable=False)
    assert [layer.reason for layer in prepared.layers] == ["its weight is quantized already", None]


def test_weights_trained_with_quantization_are_float_and_leave_integers_to_be_had() -> None:
    text = "g (float[1, 16] x) => (float[1, 16] y) { q = QuantizeLinear (w, s)  d = DequantizeLinear (q, s)  y = MatMul (x, d) }"
    model = model_of(text, w=np.eye(16, dtype=np.float32), s=np.array(0.1, np.float32))
    sample = {"x": np.ones((1, 16), np.float32)}
    prepared = prepare(CPU, model, sample, integer=True, batchable=False)
    assert [layer.reason for layer in prepared.layers] == [None]


def test_quantized_activations_are_refused_and_quantized_weights_left_alone() -> None:
    model = filled(
        """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[1, 4] x) => (float[1, 4] y)
        <float s = {0.1}, int8 z = {0}, int8[4, 1] q = {1, 2, 3, 4}>
        {
          a = QuantizeLinear (x, s, z)
          b = DequantizeLinear (a, s, z)
          w = DequantizeLinear (q, s, z)
          v = MatMul (b, w)
          y = MatMul (v, u)
        }
        """,
        u=(1, 4),
    )
    sample = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(
        ModelError, match=r"holds .*1 QuantizeLinear; .* --activations fp32 .* of y, which are"
    ):
        prepare(CPU, model, sample, integer=True, batchable=False)
    prepared = prepare(CPU, model, sample, integer=False, batchable=False)
    assert [layer.reason for layer in prepared.layers] == ["its weight is quantized already", None]


@pytest.mark.parametrize(
    ("body", "opset", "why"),
    [
        ("y = Relu (x)", 25, ""),
        ("y = RandomNormalLike (x)", 21, r"RandomNormalLike\(22\)"),
        ("y = LpPool <kernel_shape = [2, 2]> (x)", 25, ""),
        ("r = RandomUniform <shape = [1]> () y = Add (x, r)", 21, r"RandomUniform\(22\)"),
        (
            "y = GroupNormalization <num_groups = 2> (x, s, s)",
            18,
            "GroupNormalization",
        ),  # per group, computed
    ],
)
def test_the_highest_opset_is_that_of_the_kernels(body: str, opset: int, why: str) -> None:
    text = f"(float[1, 4, 6, 6] x) => (float[a, b, c, d] y) <float[4] v = {{1, 2, 3, 4}}> {{ s, t = Split <num_outputs = 2> (v) {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    found, reason = highest_opset(CPU, model, 25)
    assert found == opset
    assert re.search(why, reason)


def test_a_pass_whose_result_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def to_nothing_known(graph: gs.Graph) -> bool:
        known = bool(graph.nodes[0].op == "Relu")
        graph.nodes[0].op = "NoSuchOperator"
        return known

    def drop_node_names(graph: gs.Graph) -> bool:
        named = bool(graph.nodes[0].name != "renamed")
        graph.nodes[0].name = "renamed"
        return named

    # private: no pass of its own is known to do so
    monkeypatch.setattr(prepare_module, "_PASSES", (to_nothing_known, drop_node_names))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    found = normalised(CPU, model, {"x": np.ones(2, np.float32)}, integer=True)
    assert [(node.op_type, node.name) for node in found.graph.node] == [("Relu", "renamed")]


@pytest.mark.parametrize(
    ("body", "rank"),
    [
        ("h = Relu (x) y = Conv (h, w)", 4),
        ("y = Gemm (x, m)", 2),
        ("y = MatMul (x, m)", None),  # of any number of axes
    ],
)
def test_an_input_without_a_shape_gets_one_where_that_is_clear(body: str, rank: int | None) -> None:
    shapes = {"w": (4, 3, 3, 3), "m": (5, 4)}
    used = {name: shape for name, shape in shapes.items() if f", {name})" in body}
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[a] x) => (y) {{ {body} }}'
    model = filled(text, **used)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    found, session = runnable(CPU, model)
    assert found.graph.input[0].type.tensor_type.HasField("shape") == (rank is not None)
    assert len(session.inputs[0].shape) == (rank or 0)


def test_long_names_are_short_in_what_is_prepared_and_patterns_match_the_given_ones_too() -> None:
    long = f"net/relu/Relu;{'net/conv/BiasAdd;' * 6}net/conv"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3, 8, 8] x) => (float[2, 4, 8, 8] y) { c = Conv (x, w)  y = Relu (c) }'
    model = filled(text, w=(4, 3, 1, 1))
    model.graph.node[0].name = long
    (layer,) = prepare(
        CPU, model, {"x": np.ones((2, 3, 8, 8), np.float32)}, integer=True, batchable=False
    ).layers
    assert layer.name == short_name(long)
    assert layer.former == (long,)
    assert all(Keep.parse(f"{name}=8").matches(layer) for name in (long, "*conv/BiasAdd*", layer.name))
