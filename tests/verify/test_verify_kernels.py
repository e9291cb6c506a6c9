"""What ONNX Runtime really runs: models placed, calibrated and quantized, then read off its optimized graph."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from shared import SHARED, needs_shared

from onnxmpq.calibrate.measure_ranges import calibrate
from onnxmpq.data import Dataset, InputSpec, synthetic_data
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.passes.lower.clip_pools import clip_pools
from onnxmpq.passes.lower.insert_qdq import InsertQdq
from onnxmpq.passes.lower.pad_codes import pad_codes
from onnxmpq.passes.lower.saturate_hard_sigmoid import saturate_hard_sigmoid
from onnxmpq.passes.lower.shift_zero_points import shift_zero_points
from onnxmpq.passes.lower.split_gemm_bias import SplitGemmBias
from onnxmpq.passes.lower.stand_biases_apart import stand_biases_apart
from onnxmpq.passes.lower.zero_dead_channels import ZeroDeadChannels
from onnxmpq.passes.matching import redirect
from onnxmpq.passes.normalize.fold_batch_norm import fold_batch_norm
from onnxmpq.passes.normalize.pool_global_means import pool_global_means
from onnxmpq.place.kernels import place_activations
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of, random_feeds
from onnxmpq.testing.models import example_layer
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.verify.kernels import integer_kernels

RUNTIME = Runtime("cpu", threads=1)


def store_int8(graph: gs.Graph, layer: Layer) -> None:
    """The weight as INT8 codes of 7 bits, which every CPU adds up exactly, and a DequantizeLinear under its name.

    Gemm's kernel wants the zero points.
    """
    weight = graph.tensors()[layer.weight]
    quantized = quantize(weight.values, layer.axis, 7)
    inputs = [
        gs.Constant(f"{layer.weight}_codes", quantized.codes),
        gs.Constant(f"{layer.weight}_scale", quantized.scale),
        gs.Constant(f"{layer.weight}_zero", np.zeros(quantized.scale.shape, np.int8)),
    ]
    dequantized = gs.Variable(layer.weight, np.float32, weight.shape)
    redirect(weight.outputs, weight, dequantized)
    graph.nodes.insert(
        0, gs.Node("DequantizeLinear", attrs={"axis": quantized.axis}, inputs=inputs, outputs=[dequantized])
    )


def samples_for(model: onnx.ModelProto) -> Dataset:
    specs = [InputSpec(spec.name, spec.dtype, spec.shape) for spec in RUNTIME.session(model).inputs]
    return synthetic_data(specs, samples=3, seed=0)


def compile_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Layer, ...]]:
    """The model with int8 activations around all layers that allow it, and its layers."""
    graph = import_graph(model)
    layers = discover(graph, {})
    placement = place_activations(graph, layers, {layer.name for layer in layers})
    ranges = calibrate(RUNTIME, model, placement, samples_for(model))
    ZeroDeadChannels(ranges)(graph)
    InsertQdq(placement.shared(ranges), placement.float_sources)(graph)
    clip_pools(graph)
    saturate_hard_sigmoid(graph)
    shift_zero_points(graph)
    stand_biases_apart(graph)
    pad_codes(graph)
    SplitGemmBias(placement.split_biases)(graph)
    for layer in layers:
        if layer.name in placement.integer_layers:
            store_int8(graph, layer)
    return export_model(graph, model), layers


def optimize(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    RUNTIME.session(model, save_optimized=folder / "optimized.onnx")
    return onnx.load(folder / "optimized.onnx")


def weight(*shape: int) -> Array:
    return np.asarray(np.random.default_rng(shape).standard_normal(shape), np.float32)


CONSTANTS: dict[str, Array] = {
    "c8": weight(8, 8, 3, 3), "d8": weight(8, 1, 3, 3), "g8": weight(8, 4, 3, 3), "p8": weight(8, 8, 1, 1),
    "b8": weight(8), "w10": weight(8, 10), "u10": weight(10, 10), "b10": weight(10), "v4": weight(4, 1, 1, 1),
    "zero": np.zeros((), np.float32), "one": np.ones((), np.float32), "six": np.full((), 6, np.float32), "slope": np.full((8, 1, 1), 0.1, np.float32),
    "twice": np.array([1, 1, 2, 2], np.float32), "border": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
}  # fmt: skip


def parse(body: str, opset: int = 17, result: str = "n, ?, ?, ?") -> onnx.ModelProto:
    """`x` goes in and `y` comes out; the constants named in the body are at hand."""
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", body)}
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    return model_of(f"{header} g (float[n, 8, 8, 8] x) => (float[{result}] y) {{ {body} }}", **used)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def check(model: onnx.ModelProto, folder: Path, kernels: dict[str, str] | None = None) -> Counter[str]:
    """Compile; all layers are integer, or just those given; the outputs agree; the optimized operators."""
    written, layers = compile_int8(model)
    optimized = optimize(written, folder)
    found = integer_kernels(written, optimized, layers)
    assert found.keys() == {layer.name for layer in layers} if kernels is None else found == kernels
    feeds = next(samples_for(model).batches(3)).feeds
    expected, outputs = RUNTIME.session(model).run(feeds), RUNTIME.session(written).run(feeds)
    for name, values in expected.items():
        assert signal_to_noise(values, outputs[name]) > 25
    return operators(optimized)


MIDDLES = {
    "relu": "q = Relu (p)",
    "relu6": "q = Clip (p, zero, six)",
    "leaky relu": "q = LeakyRelu (p)",
    "sigmoid": "q = Sigmoid (p)",
    "silu": "s = Sigmoid (p) q = Mul (p, s)",
    "residual": "s = Add (p, x) q = Relu (s)",
    "sum with itself": "q = Add (p, p)",
    "product": "q = Mul (p, x)",
    "scaled": "q = Mul (p, six)",
    "concat": "r = Relu (p) t = Conv (r, p8) s = Concat <axis = 1> (r, t) u, v = Split <axis = 1> (s) q = Mul (u, v)",
    "max pool": "q = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (p)",
    "max pool, then relu": "s = MaxPool <kernel_shape = [2, 2]> (p) q = Relu (s)",
    "average pool": "q = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (p)",
    "global pool": "q = GlobalAveragePool (p)",
    "squeeze and excite": "s = GlobalAveragePool (p) t = Conv (s, p8) u = Sigmoid (t) q = Mul (p, u)",
    "hard sigmoid": "q = HardSigmoid (p)",
    "hard swish": "s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (p) q = Mul (p, s)",
    "gate": "s = GlobalAveragePool (p) t = Conv (s, p8) u = Clip (t, zero, one) q = Mul (p, u)",
    "transpose": "q = Transpose <perm = [0, 1, 3, 2]> (p)",
    "nearest": 'q = Resize <mode = "nearest"> (p, , twice)',
    "shuffle": "s = DepthToSpace <blocksize = 2> (p) t = Concat <axis = 1> (s, s, s, s) q = MaxPool <kernel_shape = [1, 1]> (t)",
}


@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES)
def test_nothing_is_float_between_two_convolutions(middle: str, tmp_path: Path) -> None:
    model = parse(f"p = Conv <pads = [1, 1, 1, 1]> (x, c8, b8) {middle} y = Conv (q, p8)")
    found = check(model, tmp_path)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)


@pytest.mark.parametrize("opset", [13, 18, 21, 25])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model = parse("p = Conv (x, c8, b8) q = Relu (p) y = Conv (q, p8)", opset)
    assert check(model, tmp_path)["QLinearConv"] == 2


@pytest.mark.parametrize(
    "layer",
    ["Conv <group = 8> (x, d8, b8)", "Conv <group = 2> (x, g8, b8)", "Conv <dilations = [2, 2]> (x, c8)"],
)
def test_kinds_of_convolutions(layer: str, tmp_path: Path) -> None:
    assert check(parse(f"y = {layer}"), tmp_path, {"y": "QLinearConv"})["Conv"] == 0


@pytest.mark.parametrize("spatial", [1, 3])
def test_convolutions_of_other_ranks(spatial: int, tmp_path: Path) -> None:
    size, free = ", 6" * spatial, ", ?" * spatial
    text = f"g (float[n, 4{size}] x) => (float[n, 5{free}] y) {{ a = Conv (x, w)  y = Relu (a) }}"
    check(model_of(text, w=weight(5, 4, *[3] * spatial)), tmp_path, {"a": "QLinearConv"})


@pytest.mark.parametrize(
    ("tail", "kernels"),
    [
        ("y = Gemm (f, w10, b10)", ["QGemm"]),
        ("y = Gemm <beta = 0.5> (f, w10, b10)", ["QGemm"]),
        ("a = Gemm (f, w10, b10) r = Relu (a) y = Gemm (r, u10, b10)", ["QGemm", "QGemm"]),
        ("y = MatMul (f, w10)", ["MatMulIntegerToFloat"]),
        ("a = MatMul (f, w10) y = Add (a, b10)", ["QGemm"]),
        ("a = MatMul (f, w10) s = Add (b10, a) r = Relu (s) y = MatMul (r, u10)", ["QGemm", "MatMulIntegerToFloat"]),
        ("a = MatMul (f, w10) r = Relu (a) y = MatMul (r, u10)", ["QLinearMatMul", "MatMulIntegerToFloat"]),
    ],
)  # fmt: skip
def test_linear_heads(tail: str, kernels: list[str], tmp_path: Path) -> None:
    model = parse(f"p = Conv (x, c8, b8) q = GlobalAveragePool (p) f = Flatten (q) {tail}", result="n, 10")
    written, layers = compile_int8(model)
    found = integer_kernels(written, optimize(written, tmp_path), layers)
    assert [found.get(layer.name) for layer in layers] == ["QLinearConv", *kernels]
    check(model, tmp_path)


@pytest.mark.parametrize(
    ("op", "name"), [("Softplus (p)", "Softplus"), ("PRelu (p, slope)", "PRelu"), ("Tanh (p)", "Tanh")]
)
def test_an_operator_without_an_integer_kernel_costs_one_pair(op: str, name: str, tmp_path: Path) -> None:
    found = check(parse(f"p = Conv (x, c8, b8) q = {op} y = Conv (q, p8)"), tmp_path)
    assert found[name] == 1
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (2, 2)


def test_layers_that_stay_in_float_are_not_reported(tmp_path: Path) -> None:
    check(parse("p = ConvTranspose (x, d8) y = Conv (p, v4)"), tmp_path, {"y": "QLinearConv"})


@pytest.mark.parametrize(("second", "found"), [("d", {"c": "QLinearConv"}), ("x", {})])
def test_a_shared_weight_needs_all_its_nodes(second: str, found: dict[str, str], tmp_path: Path) -> None:
    written = model_of(
        f"""g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y, float[1, 8, 4, 4] z) {{
            w = DequantizeLinear <axis = 0> (codes, scales)
            q = QuantizeLinear (x, s, o)  d = DequantizeLinear (q, s, o)
            c = Conv (d, w)  p = QuantizeLinear (c, s, o)  y = DequantizeLinear (p, s, o)
            e = Conv ({second}, w)  r = QuantizeLinear (e, s, o)  z = DequantizeLinear (r, s, o)
        }}""",
        codes=np.ones((8, 8, 1, 1), np.int8),
        scales=np.ones(8, np.float32),
        s=np.array(0.1, np.float32),
        o=np.array(128, np.uint8),
    )
    layer = example_layer("c", "Conv", ("c", "e"), "w", (8, 8, 1, 1), 0)
    assert integer_kernels(written, optimize(written, tmp_path), [layer]) == found


def test_a_dead_channel_keeps_its_bias(tmp_path: Path) -> None:
    scaled = weight(2, 8, 1, 1) * np.array([1, 1e-12], np.float32).reshape(2, 1, 1, 1)
    text = "g (float[n, 8, 8, 8] x) => (float[n, 2, 8, 8] y) { y = Conv (x, w, b) }"
    model = model_of(text, w=scaled, b=np.array([0, 0.5], np.float32))
    written, _ = compile_int8(model)
    found = RUNTIME.session(written).run(random_feeds(model))["y"][:, 1]
    np.testing.assert_allclose(found, 0.5, atol=0.05)


@needs_shared
@pytest.mark.parametrize(
    ("name", "most_float"),
    [("resnet20_cifar10", 5), ("resnet56_cifar10_bn", 5), ("squeezenet1_1", 2), ("mobilenetv2_1.0", 2)],
)
def test_every_layer_of_the_real_models_is_integer(name: str, most_float: int, tmp_path: Path) -> None:
    model = load_model(SHARED / "models" / f"{name}.onnx")
    graph = import_graph(model)
    fold_batch_norm(graph)
    pool_global_means(graph)
    written, layers = compile_int8(export_model(graph, model))
    optimized = optimize(written, tmp_path)
    assert integer_kernels(written, optimized, layers).keys() == {layer.name for layer in layers}
    found = operators(optimized)
    assert found["QuantizeLinear"] + found["DequantizeLinear"] <= most_float


def test_zeros_are_padded_as_codes(tmp_path: Path) -> None:
    found = check(parse("a = Conv (x, c8) p = Pad (a, border) y = Conv (p, p8)"), tmp_path)
    assert found["Pad"] == 1
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1  # the graph's ends


def test_a_pool_behind_a_float_layer_stays_in_float(tmp_path: Path) -> None:
    text = "a = ConvTranspose (x, c8) p = MaxPool <kernel_shape = [2, 2]> (a) y = Conv (p, p8)"
    model = parse(text)
    written, layers = compile_int8(model)
    optimized = optimize(written, tmp_path)
    pool = next(node for node in optimized.graph.node if node.op_type == "MaxPool")
    makers = {name: node.op_type for node in optimized.graph.node for name in node.output}
    assert makers.get(pool.input[0]) != "QuantizeLinear"
    assert set(integer_kernels(written, optimized, layers).values()) == {"QLinearConv"}


BLOCK = """g (float[{rows}, 8] x) => (float[{rows}, 8] y) {{
    l = LayerNormalization <axis = -1> (x, one8, b8)
    qm = MatMul (l, q8) q = Add (qm, b8)  km = MatMul (l, k8) k = Add (km, b8)  vm = MatMul (l, v8) v = Add (vm, b8)
    t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  p = Softmax <axis = -1> (s)  c = MatMul (p, v)
    om = MatMul (c, o8)  o = Add (om, b8)  r = Add (o, x)
    n = LayerNormalization <axis = -1> (r, one8, b8)
    um = MatMul (n, u32)  u = Add (um, b32)
    d = Div (u, root)  e = Erf (d)  f = Add (e, one)  g = Mul (u, f)  h = Mul (g, half)
    wm = MatMul (h, w32)  w = Add (wm, b8)  z = Add (w, r)
    y = LayerNormalization <axis = -1> (z, one8, b8) }}"""


@pytest.mark.parametrize("rows", ["n, 6", "3, 6"])
def test_a_transformer_multiplies_in_integers_and_normalizes_in_float(rows: str, tmp_path: Path) -> None:
    matrices = {f"{name}8": weight(8, 8) / 3 for name in "qkvo"} | {
        "u32": weight(8, 32),
        "w32": weight(32, 8),
    }
    scalars = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    model = model_of(
        BLOCK.format(rows=rows), **matrices, b8=weight(8), b32=weight(32), one8=np.ones(8, np.float32),
        **{name: np.asarray(value, np.float32) for name, value in scalars.items()},
    )  # fmt: skip
    written, layers = compile_int8(model)
    optimized = optimize(written, tmp_path)
    found = operators(optimized)
    assert set(integer_kernels(written, optimized, layers).values()) == {"MatMulIntegerToFloat"}
    assert (found["MatMulIntegerToFloat"], found["QuantizeLinear"], found["DequantizeLinear"]) == (6, 4, 0)
    assert (found["Gelu"] + found["BiasGelu"], found["QLinearAdd"], found["QLinearMul"]) == (1, 0, 0)
    kept = operators(optimize(model, tmp_path))["SkipLayerNormalization"]
    assert found["SkipLayerNormalization"] == kept > 0


@pytest.mark.parametrize("factor", ["s = Softplus (p) t = Tanh (s)", "s = Erf (p) t = Add (s, one)"])
def test_an_activation_of_which_a_part_is_float_is_float(factor: str, tmp_path: Path) -> None:
    found = check(parse(f"p = Conv (x, c8, b8) {factor} q = Mul (p, t) y = Conv (q, p8)"), tmp_path)
    assert (found["QLinearMul"], found["QuantizeLinear"]) == (0, 2)


def test_a_last_pool_is_float_where_its_codes_would_have_channels_first(tmp_path: Path) -> None:
    swish = "p = Conv (x, c8, b8) s = HardSigmoid (p) q = Mul (p, s)"
    pool = "MaxPool <kernel_shape = [2, 2]>"
    last = parse(
        f"{swish} r = {pool} (q) g = GlobalAveragePool (r) f = Flatten (g) y = Gemm (f, w10)", result="n, 10"
    )
    assert check(last, tmp_path)["MaxPool"] == 1
    assert check(parse(f"{swish} r = {pool} (q) y = Conv (r, p8)"), tmp_path)["NhwcMaxPool"] == 1
    assert check(parse(f"p = Conv (x, c8, b8) q = Relu (p) y = {pool} (q)"), tmp_path)["NhwcMaxPool"] == 1
