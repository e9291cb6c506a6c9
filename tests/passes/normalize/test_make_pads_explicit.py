"""make_pads_explicit against ONNX Runtime, which runs auto_pad and explicit pads alike."""

import logging

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx.parser import parse_model

from onnxmpq.errors import EngineError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.normalize.make_pads_explicit import make_pads_explicit
from onnxmpq.runtime.session import Runtime

RUNTIME = Runtime("cpu", threads=1)


Pair = tuple[int, int]


def model_of(op: str, size: str, attributes: str, kernel: Pair = (2, 3)) -> onnx.ModelProto:
    weights = ", ".join(str(i + 1) for i in range(kernel[0] * kernel[1]))
    return parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> g (float[1,1,{size}] x) => (float[N,C,H,W] y)'
        f" <float[1,1,{kernel[0]},{kernel[1]}] w = {{{weights}}}>"
        f" {{ y = {op} <{attributes}> ({'x, w' if op == 'Conv' else 'x'}) }}"
    )


def convolution(size: str, attributes: str) -> onnx.ModelProto:
    return model_of("Conv", size, attributes)


@settings(max_examples=100, deadline=None)
@given(
    op=st.sampled_from(["AveragePool", "Conv", "LpPool", "MaxPool"]),
    auto_pad=st.sampled_from(["SAME_LOWER", "SAME_UPPER", "VALID"]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    ceil_mode=st.booleans(),
)
def test_a_known_size_gives_the_same_outputs(
    op: str, auto_pad: str, size: Pair, kernel: Pair, stride: Pair, ceil_mode: bool
) -> None:
    # ONNX Runtime crops the input of a convolution whose window is much narrower than its stride, and refuses
    # a pooling whose window is narrower at all.
    gap = 1 if op == "Conv" else 0
    kernel = (max(kernel[0], stride[0] - gap), max(kernel[1], stride[1] - gap))
    rounding = ", ceil_mode = 1" if ceil_mode and op in {"AveragePool", "MaxPool"} else ""
    attributes = f'auto_pad = "{auto_pad}", kernel_shape = {list(kernel)}, strides = {list(stride)}{rounding}'
    model = model_of(op, f"{size[0]},{size[1]}", attributes, kernel)
    graph = import_graph(model)
    assert make_pads_explicit(graph)
    assert not make_pads_explicit(graph)
    explicit = export_model(graph, model)
    assert "auto_pad" not in {a.name for a in explicit.graph.node[0].attribute}
    x = np.random.default_rng(0).standard_normal((1, 1, *size), np.float32)
    old, new = (RUNTIME.session(m, optimize=False).run({"x": x})["y"] for m in (model, explicit))
    assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ('auto_pad = "SAME_UPPER"', [0, 1, 1, 1]),
        ('auto_pad = "SAME_LOWER"', [1, 1, 0, 1]),
        ('auto_pad = "SAME_UPPER", dilations = [3, 2]', [1, 2, 2, 2]),
        ('auto_pad = "VALID", strides = [2, 2]', [0, 0, 0, 0]),
        ('auto_pad = "VALID", pads = [9, 9, 9, 9]', [0, 0, 0, 0]),
    ],
)
def test_pads_that_no_size_can_change(attributes: str, pads: list[int]) -> None:
    graph = import_graph(convolution("H,W", attributes))
    assert make_pads_explicit(graph)
    assert graph.nodes[0].attrs["pads"] == pads


def test_a_dilated_convolution_runs_once_its_pads_are_explicit() -> None:
    model = convolution("7,8", 'auto_pad = "SAME_UPPER", dilations = [2, 2]')
    x = np.random.default_rng(0).standard_normal((1, 1, 7, 8), np.float32)
    with pytest.raises(EngineError):
        RUNTIME.session(model).run({"x": x})
    graph = import_graph(model)
    assert make_pads_explicit(graph)
    y = RUNTIME.session(export_model(graph, model)).run({"x": x})["y"]
    assert y.shape == x.shape


def test_pads_that_depend_on_the_size_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    graph = import_graph(convolution("H,W", 'auto_pad = "SAME_UPPER", strides = [2, 1], dilations = [2, 1]'))
    assert not make_pads_explicit(graph)
    assert graph.nodes[0].attrs["auto_pad"] == "SAME_UPPER"
    assert "or are negative; ONNX Runtime refuses that with dilations" in caplog.text


def test_an_axis_that_onnx_runtime_would_crop_is_left_alone() -> None:
    model = model_of("Conv", "4,4", 'auto_pad = "SAME_UPPER", strides = [1, 4]', kernel=(1, 1))
    assert not make_pads_explicit(import_graph(model))


@pytest.mark.parametrize("attributes", ["pads = [1, 1, 1, 1]", 'auto_pad = "NOTSET"'])
def test_explicit_pads_are_left_alone(attributes: str) -> None:
    assert not make_pads_explicit(import_graph(convolution("4,4", attributes)))


def test_a_transposed_convolution_is_left_alone() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[1,1,4] x) => (float[N,C,W] y)'
        ' <float[1,1,3] w = {1, 2, 3}> { y = ConvTranspose <auto_pad = "SAME_UPPER", strides = [2]> (x, w) }'
    )
    assert not make_pads_explicit(import_graph(model))
