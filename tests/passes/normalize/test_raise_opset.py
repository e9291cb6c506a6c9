"""RaiseOpset against ONNX Runtime, which runs the old form and the raised one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from onnx.parser import parse_model
from shared import SHARED, needs_shared

from onnxmpq.errors import EngineError, ModelError, OptionError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.passes.normalize.opset_rules import RULES
from onnxmpq.passes.normalize.raise_opset import RaiseOpset
from onnxmpq.passes.normalize.replace_legacy_ops import replace_legacy_ops
from onnxmpq.runtime.session import Runtime

RUNTIME = Runtime("cpu", threads=1)
TARGETS = (13, 21, 25)

Arrays = dict[str, NDArray[Any]]

# (opset, inputs => outputs with initializers, nodes)
CASES = {
    "Add by axis": (7, "(float[1,3,2] x) => (float[1,3,2] y) <float[3,1] b = {1, 2, 3}>", "y = Add (x, b)"),
    "ArgMax": (8, "(float[2,3] x) => (int64[2,1] y)", "y = ArgMax <axis = 1> (x)"),
    "AveragePool": (
        7,
        "(float[1,1,7,7] x) => (float[N,C,H,W] y)",
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], count_include_pad = 1> (x)",
    ),
    "BatchNormalization": (
        7,
        "(float[1,2,3] x) => (float[1,2,3] y) <float[2] a = {1, 2}, float[2] m = {0.5, 0.25}, float[2] v = {1, 4}>",
        "y = BatchNormalization <spatial = 1, epsilon = 0.001, momentum = 0.8> (x, a, m, m, v)",
    ),
    "BatchNormalization in training": (
        9,
        "(float[4,2,3] x) => (float[4,2,3] y, float[2] b) <float[2] a = {1, 2}, float[2] m = {0.5, 0.25}, float[2] v = {1, 4}>",
        "y, b, c, d, e = BatchNormalization <momentum = 0.8> (x, a, m, m, v)",
    ),
    "BatchNormalization of every element": (
        7,
        "(float[2,2,2] x) => (float[2,2,2] y) <float[2,2] a = {1, 2, 3, 4}, float[2,2] m = {0.5, 0.25, 1, 2}, float[2,2] v = {1, 4, 2, 3}>",
        "y = BatchNormalization <spatial = 0> (x, a, m, m, v)",
    ),
    "Clip both": (10, "(float[8] x) => (float[8] y)", "y = Clip <min = -0.5, max = 0.25> (x)"),
    "Clip max": (6, "(float[8] x) => (float[8] y)", "y = Clip <max = 0.25> (x)"),
    "Clip min": (9, "(float[8] x) => (float[8] y)", "y = Clip <min = 0.0> (x)"),
    "Clip nothing": (9, "(float[8] x) => (float[8] y)", "y = Clip (x)"),
    "DepthToSpace": (8, "(float[1,8,2,2] x) => (float[1,2,4,4] y)", "y = DepthToSpace <blocksize = 2> (x)"),
    "Dropout": (7, "(float[2,3] x) => (float[2,3] y)", "y = Dropout <ratio = 0.3> (x)"),
    "DynamicSlice": (
        9,
        "(float[8] x) => (float[N] y) <int64[1] s = {1}, int64[1] e = {-1}>",
        "y = DynamicSlice (x, s, e)",
    ),
    "Gemm": (
        7,
        "(float[2,3] x) => (float[2,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,1,2,3}, float[4] b = {1,2,3,4}>",
        "y = Gemm <alpha = 0.5> (x, w, b)",
    ),
    "GridSample": (
        16,
        "(float[1,1,4,4] x, float[1,2,2,2] grid) => (float[1,1,2,2] y)",
        'y = GridSample <mode = "bicubic"> (x, grid)',
    ),
    "GridSample default": (
        16,
        "(float[1,1,4,4] x, float[1,2,2,2] grid) => (float[1,1,2,2] y)",
        "y = GridSample (x, grid)",
    ),
    "GroupNormalization": (
        18,
        "(float[2,4,3] x) => (float[2,4,3] y) <float[2] s = {1, 2}, float[2] b = {0, 1}>",
        "y = GroupNormalization <num_groups = 2> (x, s, b)",
    ),
    "Hardmax": (11, "(float[2,3,4] x) => (float[2,3,4] y)", "y = Hardmax (x)"),
    "LpPool": (7, "(float[1,1,6,6] x) => (float[N,C,H,W] y)", "y = LpPool <kernel_shape = [2,2]> (x)"),
    "LSTM": (
        7,
        "(float[2,1,1] x) => (float[2,1,1,1] y) <float[1,4,1] w = {1,2,3,4}, float[1,4,1] r = {0.1, 0.2, 0.3, 0.4}>",
        "y = LSTM <hidden_size = 1> (x, w, r)",
    ),
    "Max": (7, "(float[4] x) => (float[4] y)", "h = Neg (x) y = Max (x, h)"),
    "MeanVarianceNormalization": (
        7,
        "(float[2,2,2,2] x) => (float[2,2,2,2] y)",
        "y = MeanVarianceNormalization <normalize_variance = 1> (x)",
    ),
    "MeanVarianceNormalization across": (
        8,
        "(float[2,2,2,2] x) => (float[2,2,2,2] y)",
        "y = MeanVarianceNormalization <across_channels = 1> (x)",
    ),
    "Pad": (7, "(float[1,1,3,3] x) => (float[N,C,H,W] y)", "y = Pad <pads = [0,0,1,1,0,0,1,2]> (x)"),
    "Pad edge": (
        9,
        "(float[1,1,3,3] x) => (float[N,C,H,W] y)",
        'y = Pad <pads = [0,0,1,1,0,0,1,2], mode = "edge"> (x)',
    ),
    "Pad value": (
        10,
        "(float[1,1,3,3] x) => (float[N,C,H,W] y)",
        "y = Pad <pads = [0,0,1,0,0,0,-1,1], value = 2.5> (x)",
    ),
    "Pad value of double": (10, "(double[3] x) => (double[N] y)", "y = Pad <pads = [1, 1], value = 0.1> (x)"),
    "PRelu": (7, "(float[1,2,3] x) => (float[1,2,3] y) <float[2,1] s = {0.5, 2}>", "y = PRelu (x, s)"),
    "ReduceMax all": (11, "(float[2,3,4] x) => (float[1,1,1] y)", "y = ReduceMax (x)"),
    "ReduceMean": (
        8, "(float[2,3,4] x) => (float[A,B] y)", "y = ReduceMean <axes = [1], keepdims = 0> (x)"
    ),
    "ReduceSum": (11, "(float[2,3,4] x) => (float[A,B,C] y)", "y = ReduceSum <axes = [-1, 0]> (x)"),
    "Resize half pixel": (
        11,
        "(float[1,1,4,4] x) => (float[N,C,H,W] y) <float[0] roi = {}, float[4] s = {1, 1, 1.7, 2}>",
        'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor"> (x, roi, s)',
    ),
    "Resize linear": (
        10,
        "(float[1,1,4,5] x) => (float[N,C,H,W] y) <float[4] s = {1, 1, 2, 0.6}>",
        'y = Resize <mode = "linear"> (x, s)',
    ),
    "Resize larger": (
        10, "(float[1,1,4,5] x) => (float[N,C,H,W] y) <float[4] s = {1, 1, 1.7, 3}>", "y = Resize (x, s)"
    ),
    "Resize smaller": (
        10, "(float[1,1,6,5] x) => (float[N,C,H,W] y) <float[4] s = {1, 1, 0.7, 0.6}>", "y = Resize (x, s)"
    ),
    "RoiAlign": (
        10,
        "(float[1,1,8,8] x) => (float[N,C,H,W] y) <float[1,4] rois = {1, 1, 6, 5}, int64[1] batch = {0}>",
        "y = RoiAlign <output_height = 3, output_width = 3> (x, rois, batch)",
    ),
    "Scatter": (
        9,
        "(float[1,5] x) => (float[1,5] y) <int64[1,2] i = {1, 3}, float[1,2] u = {1.1, 2.1}>",
        "y = Scatter <axis = 1> (x, i, u)",
    ),
    "Slice": (
        7, "(float[3,4,5] x) => (float[A,B,C] y)", "y = Slice <starts = [-3, 1], ends = [99, -1], axes = [1, 2]> (x)"
    ),
    "Slice leading axes": (9, "(float[3,4] x) => (float[A,B] y)", "y = Slice <starts = [1], ends = [3]> (x)"),
    "Softmax of an unknown shape": (
        11,
        "(float[2,3,4] x, int64[3] shape) => (float[A,B,C] y)",
        "h = Reshape (x, shape) y = Softmax (h)",
    ),
    "Split equal": (11, "(float[6,2] x) => (float[A,B] y, float[A,B] z)", "y, z = Split (x)"),
    "Split sizes": (
        7, "(float[2,6] x) => (float[A,B] y, float[C,D] z)", "y, z = Split <axis = 1, split = [2, 4]> (x)"
    ),
    "Squeeze": (11, "(float[1,3,1] x) => (float[A,B] y)", "y = Squeeze <axes = [0]> (x)"),
    "Squeeze all": (9, "(float[1,3,1] x) => (float[A] y)", "y = Squeeze (x)"),
    "ThresholdedRelu": (7, "(float[8] x) => (float[8] y)", "y = ThresholdedRelu <alpha = 0.5> (x)"),
    "TopK": (9, "(float[2,5] x) => (float[A,B] y, int64[A,B] i)", "y, i = TopK <k = 2> (x)"),
    "Unsqueeze": (9, "(float[3] x) => (float[A,B,C] y)", "y = Unsqueeze <axes = [0, 2]> (x)"),
    "Upsample": (
        7, "(float[1,1,3,2] x) => (float[N,C,H,W] y)", "y = Upsample <scales = [1.0, 1.0, 2.0, 1.5]> (x)"
    ),
    "Upsample linear": (
        9,
        "(float[1,1,3,2] x) => (float[N,C,H,W] y) <float[4] s = {1, 1, 2, 1.5}>",
        'y = Upsample <mode = "linear"> (x, s)',
    ),
}  # fmt: skip


def model_of(opset: int, signature: str, nodes: str) -> onnx.ModelProto:
    return parse_model(f'<ir_version: 4, opset_import: ["": {opset}]> g {signature} {{ {nodes} }}')


def raised(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    graph = import_graph(model)
    replace_legacy_ops(graph)
    changed = RaiseOpset(target)(graph)
    result = export_model(graph, model)
    if changed:
        onnx.checker.check_model(result)
    assert result.opset_import[0].version == max(target, model.opset_import[0].version)
    return result


def feeds_of(model: onnx.ModelProto, free: int = 1) -> Arrays:
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in RUNTIME.session(model, optimize=False).inputs:
        dims = [free if d is None else d for d in spec.shape]
        feeds[spec.name] = rng.standard_normal(dims).astype(spec.dtype)
    return feeds


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    return RUNTIME.session(model, optimize=False).run(feeds)


def assert_same(model: onnx.ModelProto, target: int, feeds: Arrays, rtol: float = 0.0) -> None:
    assert_close(run(raised(model, target), feeds), run(model, feeds), rtol)


def assert_close(new: Arrays, old: Arrays, rtol: float) -> None:
    for name, values in old.items():
        assert new[name].dtype == values.dtype
        assert_allclose(new[name], values, rtol=rtol, atol=rtol * np.abs(values).max(initial=0.0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_a_raised_operator_gives_the_same_outputs(case: str, target: int) -> None:
    if case == "RoiAlign" and target > 21:
        return  # ONNX Runtime 1.31 has no kernel for RoiAlign-22
    model = model_of(*CASES[case])
    feeds = feeds_of(model)
    if "shape" in feeds:
        feeds["shape"] = np.array([2, 3, 4])
    assert_same(model, target, feeds, rtol=1e-6)


def test_every_rule_has_a_case_or_a_test_of_its_own() -> None:
    tested = {name.split()[0] for name in CASES} | {
        "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor",  # as Add
        "GRU", "RNN", "LogSoftmax", "DFT", "Scan",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMin", "ReduceProd", "ReduceSumSquare",
    }  # fmt: skip
    assert {op for rules in RULES.values() for op in rules} <= tested


# Opset 6 is older than what ONNX Runtime has kernels for: NumPy says what is right.


def test_broadcast_by_axis_of_a_constant_and_of_a_variable() -> None:
    model = model_of(
        6,
        "(float[1,3,4,4] x, float[3] v) => (float[1,3,4,4] y) <float[3] b = {1, 2, 3}>",
        "h = Add <broadcast = 1, axis = 1> (x, b) y = Mul <broadcast = 1, axis = -3> (h, v)",
    )
    x, v = np.random.default_rng(0).standard_normal((1, 3, 4, 4), np.float32), np.array([2, 3, 4], np.float32)
    y = run(raised(model, 13), {"x": x, "v": v})["y"]
    bias = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    assert_array_equal(y, (x + bias) * v.reshape(3, 1, 1))


def test_broadcast_without_axis_is_that_of_numpy() -> None:
    model = model_of(
        6, "(float[2,3] x) => (float[2,3] y) <float[3] b = {1, 2, 3}>", "y = Sub <broadcast = 1> (x, b)"
    )
    x = np.ones((2, 3), np.float32)
    assert_array_equal(run(raised(model, 13), {"x": x})["y"], x - np.array([1, 2, 3], np.float32))


def test_a_shared_operand_is_not_edited() -> None:
    model = model_of(
        6,
        "(float[1,2,2] x) => (float[1,2,2] y, float[1,2,2] z) <float[2] b = {1, 2}>",
        "y = Add <broadcast = 1, axis = 1> (x, b) z = Add <broadcast = 1> (x, b)",
    )
    x, b = np.zeros((1, 2, 2), np.float32), np.array([1, 2], np.float32)
    out = run(raised(model, 13), {"x": x})
    assert_array_equal(out["y"], x + b[:, None])
    assert_array_equal(out["z"], x + b)


def test_the_slope_of_prelu_is_per_channel_in_opset_6() -> None:
    model = model_of(6, "(float[1,2,3] x) => (float[1,2,3] y) <float[2] s = {0.5, 2}>", "y = PRelu (x, s)")
    x = -np.ones((1, 2, 3), np.float32)
    y = run(raised(model, 21), {"x": x})["y"]
    assert_array_equal(y, x * np.array([[[0.5], [2]]], np.float32))


def test_inference_attributes_of_opset_6_are_dropped() -> None:
    model = model_of(
        6,
        "(float[2,3] x) => (float[2,3] y) <float[3,3] w = {1,0,0,0,1,0,0,0,1}, float[3] b = {1,2,3}, float[3] o = {1,1,1}>",
        "h = Gemm <broadcast = 1> (x, w, b) n = BatchNormalization <is_test = 1, epsilon = 0.0> (h, o, b, b, o)"
        " y = Dropout <is_test = 1> (n)",
    )
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    assert_allclose(
        run(raised(model, 13), {"x": x})["y"], x + np.array([1, 2, 3], np.float32), rtol=1e-5, atol=1e-6
    )


def test_upsample_of_opset_6_has_two_scales() -> None:
    model = model_of(
        6,
        "(float[1,1,2,2] x) => (float[1,1,4,6] y)",
        "y = Upsample <height_scale = 2.0, width_scale = 3.0> (x)",
    )
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    assert_array_equal(run(raised(model, 13), {"x": x})["y"], x.repeat(2, 2).repeat(3, 3))


def test_the_limits_of_clip_have_the_type_of_the_data() -> None:
    model = model_of(7, "(double[8] x) => (double[8] y)", "h = Neg (x) y = Clip <min = -0.5, max = 0.25> (h)")
    x = np.linspace(-1, 1, 8)
    assert_array_equal(run(raised(model, 13), {"x": x})["y"], np.clip(-x, -0.5, 0.25))


@pytest.mark.parametrize("axis", [1, 2])
def test_the_axis_of_a_fourier_transform_becomes_an_input(axis: int) -> None:
    model = model_of(17, "(float[1,4,6,1] x) => (float[A,B,C,D] y)", f"y = DFT <axis = {axis}> (x)")
    assert_same(model, 20, feeds_of(model), rtol=1e-6)


# Softmax and Resize: the meaning of one attribute, over many shapes.


@st.composite
def softmax_cases(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int, bool]:
    op = draw(st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return op, shape, axis, draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(softmax_cases())
def test_softmax_over_several_axes(case: tuple[str, tuple[int, ...], int, bool]) -> None:
    op, shape, axis, known = case
    dims = ",".join(map(str, shape) if known else (f"d{i}" for i in range(len(shape))))
    model = model_of(11, f"(float[{dims}] x) => (float[{dims}] y)", f"y = {op} <axis = {axis}> (x)")
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    old, new = run(model, {"x": x})["y"], run(raised(model, 13), {"x": x})["y"]
    assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_softmax_over_the_last_axis_stays_one_node() -> None:
    model = model_of(8, "(float[N,10] x) => (float[N,10] y)", "y = Softmax (x)")
    assert [n.op_type for n in raised(model, 13).graph.node] == ["Softmax"]
    pooled = model_of(
        8, "(float[N,10,4,4] x) => (float[A,B,C,D] y)", "p = GlobalAveragePool (x) y = Softmax (p)"
    )
    assert [n.op_type for n in raised(pooled, 13).graph.node] == ["GlobalAveragePool", "Softmax"]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scales=st.one_of(
        st.tuples(st.floats(1, 3.5, width=16), st.floats(1, 3.5, width=16)),
        st.tuples(st.floats(0.5, 1, width=16), st.floats(0.5, 1, width=16)),
    ),
    mode=st.sampled_from(["nearest", "linear"]),
)
def test_resize_by_any_scale(sizes: tuple[int, int], scales: tuple[float, float], mode: str) -> None:
    model = model_of(
        10,
        f"(float[1,1,{sizes[0]},{sizes[1]}] x) => (float[N,C,H,W] y)"
        f" <float[4] s = {{1, 1, {scales[0]}, {scales[1]}}}>",
        f'y = Resize <mode = "{mode}"> (x, s)',
    )
    if 0 in np.floor(np.multiply(sizes, scales)):
        return  # nothing is left
    assert_same(model, 13, feeds_of(model), rtol=1e-6)


def test_a_resize_that_shrinks_one_axis_only_is_refused() -> None:
    model = model_of(
        10, "(float[1,1,4,4] x) => (float[N,C,H,W] y) <float[4] s = {1, 1, 2, 0.5}>", "y = Resize (x, s)"
    )
    with pytest.raises(ModelError, match="one dimension smaller and another larger"):
        raised(model, 13)


# The walk itself.


def test_subgraphs_are_raised_too() -> None:
    model = model_of(
        11,
        "(bool c, float[2,3] x) => (float[A,B] y)",
        "w = Neg (x) y = If (c) <"
        "then_branch = t () => (float[A,B] p) { u = Unsqueeze <axes = [0]> (w) p = Squeeze <axes = [0]> (u) },"
        "else_branch = e () => (float[A,B] q) { q = ReduceSum <axes = [1]> (x) }>",
    )
    x = np.ones((2, 3), np.float32)
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": x}
        for target in TARGETS:
            assert_same(model, target, feeds)


def test_a_second_run_and_a_lower_target_do_nothing() -> None:
    graph = import_graph(model_of(9, "(float[3] x) => (float[1,3] y)", "y = Unsqueeze <axes = [0]> (x)"))
    assert RaiseOpset(21)(graph)
    assert not RaiseOpset(21)(graph)
    assert not RaiseOpset(13)(graph)
    assert graph.opset == 21


def test_other_domains_are_left_alone() -> None:
    model = parse_model(
        '<ir_version: 7, opset_import: ["": 11, "com.microsoft": 1]>'
        " g (float[1,4] x) => (float[1,4] y) { h = com.microsoft.Gelu (x) y = Softmax (h) }"
    )
    assert_same(model, 21, feeds_of(model), rtol=1e-6)


@pytest.mark.parametrize("target", [12, 26, 0])
def test_targets_out_of_range(target: int) -> None:
    with pytest.raises(OptionError, match="13 up to 25"):
        RaiseOpset(target)


@pytest.mark.parametrize(
    ("opset", "signature", "nodes", "message"),
    [
        (5, "(float[2] x) => (float[2] y)", "y = Relu (x)", "opset 5, the oldest supported is 6"),
        (
            7,
            "(float[2] x) => (float[2] y)",
            "y = ScaledTanh <alpha = 1.0, beta = 1.0> (x)",
            "no such operator",
        ),
        (
            7,
            "(float[1,1] x, float[1] o) => (float[1,1] y)",
            "y = BatchNormalization <spatial = 0> (x, o, o, o, o)",
            "from opset 7 to 21: that opset does not know the attribute 'spatial' = 0",
        ),
        (
            9,
            "(float[1,1] x) => (float[1,1] y, float[1] s) <float[1] o = {1}>",
            "y, m, v, s, t = BatchNormalization (x, o, o, o, o)",
            "statistics of training",
        ),
        (
            18,
            "(float[N,C,3] x) => (float[N,C,3] y) <float[2] s = {1, 2}>",
            "y = GroupNormalization <num_groups = 2> (x, s, s)",
            "number of channels",
        ),
        (
            11,
            "(float[1,1,2,2] x) => (float[N,C,H,W] y) <float[0] r = {}, float[4] s = {1, 1, 2, 2}>",
            'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s)',
            "tf_half_pixel_for_nn without nearest_mode floor",
        ),
    ],
)
def test_what_cannot_be_raised_is_named(opset: int, signature: str, nodes: str, message: str) -> None:
    graph = import_graph(model_of(opset, signature, nodes))
    with pytest.raises(ModelError, match=message):
        RaiseOpset(21)(graph)


# Real models.


def real_models() -> list[Path]:
    return sorted([*(SHARED / "robustness").glob("*.onnx"), *(SHARED / "models").glob("*.onnx")])


def real_feeds(model: onnx.ModelProto) -> Arrays:
    """One random input; audio models get 512 samples at 16 kHz, images 320 x 320."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in RUNTIME.session(model, optimize=False).inputs:
        if spec.dtype == np.int64:
            feeds[spec.name] = np.full([d or 1 for d in spec.shape], 16_000)
            continue
        free = {2: [1, 512], 3: [2, 1, 128], 4: [1, 320, 320, 320], 5: [1, 4, 8, 8, 8]}[len(spec.shape)]
        dims = [d or f for d, f in zip(spec.shape, free, strict=True)]
        feeds[spec.name] = rng.standard_normal(dims).astype(spec.dtype)
    return feeds


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("path", real_models(), ids=lambda path: path.stem)
def test_real_models_keep_their_outputs(path: Path) -> None:
    model = load_model(path)
    try:
        feeds = real_feeds(model)
    except EngineError as reason:
        pytest.skip(f"ONNX Runtime cannot run the original: {reason}")
    # In half precision one unit in the last place is 1e-3.
    rtol = 1e-3 if np.float16 in {f.dtype.type for f in feeds.values()} else 1e-6
    old = run(model, feeds)
    for target in TARGETS:
        assert_close(run(raised(model, target), feeds), old, rtol)
