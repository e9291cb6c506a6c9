from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxmpq.errors import VerifyError
from onnxmpq.passes.lower.halve_constants import halve_constants
from onnxmpq.passes.lower.pack_weights import HalfWeight, PackedLayer, PackWeights
from onnxmpq.rounding.half_scales import half_scales
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.testing import run
from onnxmpq.values.quantized_weight import QuantizedWeight
from onnxmpq.verify.readback import read_halves, read_weights

Form = Literal["integer", "float"]
FORMS = st.sampled_from(["integer", "float"])
WIDTHS = range(1, 9)


def random_weight(shape: tuple[int, ...], bits: int, axis: int = 0, seed: int = 0) -> QuantizedWeight:
    values = np.random.default_rng([seed, bits, *shape]).standard_normal(shape).astype(np.float32)
    return quantize(values, axis, bits)


def model_of(weights: dict[str, NDArray[Any]], opset: int = 25) -> onnx.ModelProto:
    """One Add a weight: nothing here depends on what reads the weights."""
    types = {np.dtype(np.float32): "float", np.dtype(np.float16): "float16"}
    inputs = ", ".join(f"{types[w.dtype]}[1] x_{name}" for name, w in weights.items())
    outputs = ", ".join(f"{types[w.dtype]}[?] y_{name}" for name, w in weights.items())
    nodes = " ".join(f"y_{name} = Add (x_{name}, {name})" for name in weights)
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 13, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return model


def packed(
    weights: dict[str, QuantizedWeight], form: Form, native2: bool = True, dtype: type = np.float32
) -> onnx.ModelProto:
    """The weights, packed, written and read as a file is."""
    model = model_of({name: w.dequantize().astype(dtype) for name, w in weights.items()})
    graph = gs.import_onnx(model)
    assert PackWeights({name: PackedLayer(w, form) for name, w in weights.items()}, native2)(graph)
    return onnx.load_from_string(gs.export_onnx(graph).SerializeToString())


@st.composite
def weights(draw: st.DrawFn) -> dict[str, QuantizedWeight]:
    drawn = {}
    for i in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
        axis = draw(st.integers(0, len(shape) - 1))
        drawn[f"w{i}"] = random_weight(shape, draw(st.sampled_from(WIDTHS)), axis, seed=i)
    return drawn


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("form", ["float", "plain"])
def test_scales_of_two_axes_are_read_back(bits: int, form: Literal["float", "plain"]) -> None:
    flat = random_weight((2 * 6, 5), bits)
    weight = replace(flat, codes=flat.codes.reshape(2, 6, 5), scale=flat.scale.reshape(2, 6), axis=1)
    model = model_of({"w": weight.dequantize()})
    graph = gs.import_onnx(model)
    container = None if form == "float" else 8
    assert PackWeights({"w": PackedLayer(weight, form, container if bits < 8 else None)})(graph)
    file = onnx.load_from_string(gs.export_onnx(graph).SerializeToString())
    found = read_weights(file)["w"]
    np.testing.assert_array_equal(found.codes, weight.codes, strict=True)
    np.testing.assert_array_equal(found.scale, weight.scale, strict=True)
    assert (found.axis, found.bits) == (1, bits if form == "float" else 8)
    feeds = {"x_w": np.zeros(1, np.float32)}
    np.testing.assert_array_equal(run(file, feeds)["y_w"], weight.dequantize())


@settings(max_examples=80, deadline=None)
@given(weights(), FORMS, st.booleans())
def test_a_file_gives_back_what_was_packed(
    drawn: dict[str, QuantizedWeight], form: Form, native2: bool
) -> None:
    stored = read_weights(packed(drawn, form, native2))
    assert stored.keys() == drawn.keys()
    for name, weight in drawn.items():
        found = stored[name]
        np.testing.assert_array_equal(found.codes, weight.codes, strict=True)
        np.testing.assert_array_equal(found.scale, weight.scale, strict=True)
        assert (found.axis, found.bits) == (weight.axis, weight.bits)
        assert found.stored_bytes == -(-weight.codes.size * weight.bits // 8)


@pytest.mark.parametrize("native2", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_stored_bytes_are_the_bytes_in_the_file(bits: int, native2: bool) -> None:
    drawn = {f"w{i}": random_weight((16, 9), bits, seed=i) for i in range(5)}
    model = packed(drawn, "float", native2)
    large = [len(t.raw_data) for t in model.graph.initializer if len(t.raw_data) > 5 * 16]
    scales = [4 * 16] * 5
    assert sum(found.stored_bytes for found in read_weights(model).values()) == 5 * 16 * 9 * bits // 8
    codes = [t for t in model.graph.initializer if t.data_type not in {TensorProto.FLOAT, TensorProto.INT64}]
    assert sum(len(t.raw_data) for t in codes) <= 5 * 16 * 9 * bits // 8 + 24, (large, scales)


def test_bits_are_what_the_file_spends_not_what_the_codes_need() -> None:
    narrow = random_weight((4, 6), 3)
    wide = QuantizedWeight(narrow.codes, narrow.scale, 0, 8)
    found = read_weights(packed({"w": wide}, "float"))["w"]
    assert (found.bits, found.stored_bytes) == (8, 24)


@pytest.mark.parametrize("bits", WIDTHS)
def test_half_precision_weights_are_found_under_their_own_name(bits: int) -> None:
    weight = random_weight((3, 4), bits)
    stored = read_weights(packed({"w": weight}, "float", dtype=np.float16))
    assert list(stored) == ["w"]
    np.testing.assert_array_equal(stored["w"].codes, weight.codes)


def test_weights_left_in_float_are_not_listed() -> None:
    weight = random_weight((3, 4), 4)
    values = {
        "single": np.ones((2, 3), np.float32),
        "half": np.ones((2, 3), np.float32),
        "w": weight.dequantize(),
    }
    graph = gs.import_onnx(model_of(values))
    PackWeights({"half": HalfWeight(), "w": PackedLayer(weight, "float")})(graph)
    model = gs.export_onnx(graph)
    assert list(read_weights(model)) == ["w"]
    halves = read_halves(model)
    assert list(halves) == ["half"]
    np.testing.assert_array_equal(halves["half"], np.ones((2, 3), np.float16), strict=True)


def read_text(body: str, **tensors: Any) -> set[str]:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {body}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items())
    return set(read_weights(model))


def test_int8_weights_of_other_tools_are_read_where_their_zero_points_are_zero() -> None:
    body = "g (float[2,2] x) => (float[2,2] y) { w = DequantizeLinear <axis = 0> (q, s, z) y = Add (x, w) }"
    codes, scale = np.ones((2, 2), np.int8), np.ones(2, np.float32)
    assert read_text(body, q=codes, s=scale, z=np.zeros(2, np.int8)) == {"w"}
    assert read_text(body, q=codes, s=scale, z=np.array([0, 1], np.int8)) == set()


@pytest.mark.parametrize(
    ("readers", "name"), [("y = Add (x, h)", "h"), ("v = Add (w, w) y = Add (x, h)", "w")]
)
def test_a_cast_names_the_weight_that_it_alone_reads(readers: str, name: str) -> None:
    body = f"w = DequantizeLinear <axis = 0> (q, s) h = Cast <to = 10> (w) {readers}"
    text = f"g (float16[2,2] x) => (float16[2,2] y) {{ {body} }}"
    assert read_text(text, q=np.ones((2, 2), np.int8), s=np.ones(2, np.float32)) == {name}


@pytest.mark.parametrize(("count", "listed"), [(2, {"w"}), (3, set())])
def test_scales_that_are_not_one_a_channel_are_no_weights(count: int, listed: set[str]) -> None:
    body = "g (float[2,2] x) => (float[2,2] y) { w = DequantizeLinear <axis = 0> (q, s) y = Add (x, w) }"
    assert read_text(body, q=np.ones((2, 2), np.int8), s=np.ones(count, np.float32)) == listed


@pytest.mark.parametrize(
    "body",
    [
        "a = QuantizeLinear (x, s, z) y = DequantizeLinear (a, s, z)",  # an activation
        "a = Cast <to = 1> (q) b = Mul (a, x) y = Identity (b)",  # a product with an activation
        "y = Mul (x, s)",
        "a = Cast <to = 1> (i) y = Mul (a, s)",  # 32-bit integers are no codes
        "a = Relu (q) b = Cast <to = 1> (a) y = Mul (b, s)",  # not one of the unpacking operators
    ],
)
def test_what_only_looks_like_a_weight_is_not_listed(body: str) -> None:
    tensors = {
        "s": np.ones(2, np.float32), "z": np.zeros(2, np.int8),
        "q": np.ones((2, 2), np.int8), "i": np.ones((2, 2), np.int32),
    }  # fmt: skip
    assert read_text(f"g (float[2,2] x) => (float[2,2] y) {{ {body} }}", **tensors) == set()


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_truncated_codes_are_an_error(bits: int) -> None:
    model = packed({"w": random_weight((5, 7), bits)}, "float")
    others = {TensorProto.FLOAT, TensorProto.INT64}
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data) * (t.data_type not in others))
    tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(VerifyError, match="wanted"):
        read_weights(model)


def test_a_written_file_with_external_data_is_read(tmp_path: Path) -> None:
    drawn = {f"w{bits}": random_weight((8, 33), bits) for bits in WIDTHS}
    path = tmp_path / "model.onnx"
    onnx.save(packed(drawn, "integer"), path, save_as_external_data=True, size_threshold=0)
    stored = read_weights(onnx.load(path))
    assert {name: found.bits for name, found in stored.items()} == {f"w{bits}": bits for bits in WIDTHS}


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_gate_is_no_weight(opset: int) -> None:
    """A Split without sizes, whose halves are multiplied."""
    parts = ", num_outputs = 2" if opset == 18 else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 4] x) => (float[2, 2] y) {{'
        f" a, b = Split <axis = 1{parts}> (x) s = Sigmoid (a) y = Mul (s, b) }}"
    )
    assert not read_weights(model)


@pytest.mark.parametrize("form", ["integer", "float"])
def test_scales_in_half_precision_are_read_back(form: Form) -> None:
    weights = {f"w{i}": random_weight((8, 3, 2, 2), 3, seed=i) for i in range(2)}
    halved = {name: replace(w, scale=half_scales(w.scale)) for name, w in weights.items()}
    model = packed(halved, form)
    graph = gs.import_onnx(model)
    assert halve_constants(graph)
    found = read_weights(onnx.load_from_string(gs.export_onnx(graph).SerializeToString()))
    for name, weight in halved.items():
        np.testing.assert_array_equal(found[name].scale, weight.scale)
        assert found[name].scale_bytes == 2 * len(weight.scale)
