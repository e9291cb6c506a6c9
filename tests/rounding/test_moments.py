"""Emitted second moments against NumPy, window by window."""

import itertools
import math
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from shared import shared

from onnxmpq.data import InputSpec, open_data, synthetic_data
from onnxmpq.data.evidence import gather
from onnxmpq.normalize.discover import discover
from onnxmpq.normalize.prepare import prepare, runnable
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.passes.expose.emit_gram import EVERY_WINDOW, EmitGram, Taken, gram_name
from onnxmpq.rounding.moments import (
    Moments,
    centred,
    enough,
    has_moments,
    input_moments,
    is_known,
    taken,
)
from onnxmpq.rounding.rows import block_columns, block_count, columns
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass
from onnxmpq.testing.models import example_layer
from onnxmpq.values.layer import Layer

CPU = Runtime("cpu", threads=1)


def convolution(
    shape: tuple[int, ...], attributes: str, spatial: tuple[int, ...], channels: int
) -> onnx.ModelProto:
    dims = ", ".join(["n", str(channels), *map(str, spatial)])
    out = ", ".join(["n", "c", *(f"d{i}" for i in range(len(spatial)))])
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[{dims}] x) => (float[{out}] y) {{ y = Conv <{attributes}> (x, w) }}'
    )
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


def windows(x: Any, layer: Layer, pads: int, stride: int, dilation: int) -> Any:
    """[group, D, windows] by loops, channel by channel."""
    spatial = x.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *[(pads, pads)] * spatial])
    kernel = layer.shape[2:]
    sizes = [(x.shape[2 + i] - dilation * (k - 1) - 1) // stride + 1 for i, k in enumerate(kernel)]
    per = layer.shape[1]
    found = []
    for n, position in itertools.product(range(len(x)), itertools.product(*map(range, sizes))):
        index = tuple(
            slice(p * stride, p * stride + dilation * (k - 1) + 1, dilation)
            for p, k in zip(position, kernel, strict=True)
        )
        found.append(x[(n, slice(None), *index)].reshape(layer.group, per * int(np.prod(kernel))))
    return np.stack(found, axis=-1).astype(np.float64)


@pytest.mark.parametrize(
    ("shape", "group", "spatial", "pads", "stride", "dilation"),
    [
        ((4, 3, 3, 3), 1, (6, 7), 1, 1, 1),
        ((4, 3, 3, 3), 1, (9, 8), 0, 2, 1),
        ((4, 3, 1, 1), 1, (5, 5), 0, 1, 1),
        ((4, 3, 1, 1), 1, (5, 6), 0, 2, 1),
        ((4, 2, 3, 3), 2, (7, 7), 2, 2, 2),
        ((6, 1, 3, 3), 6, (5, 5), 1, 1, 1),
        ((3, 2, 3), 1, (9,), 1, 2, 1),
        ((2, 2, 2, 2, 2), 1, (4, 3, 4), 0, 1, 1),
    ],
)
def test_moments_of_a_convolution(
    shape: tuple[int, ...], group: int, spatial: tuple[int, ...], pads: int, stride: int, dilation: int
) -> None:
    rank, channels = len(spatial), shape[1] * group
    attributes = (
        f"group={group}, pads={[pads] * 2 * rank}, strides={[stride] * rank}, dilations={[dilation] * rank}"
    )
    model = convolution(shape, attributes, spatial, channels)
    x = np.random.default_rng(1).standard_normal((5, channels, *spatial)).astype(np.float32)
    (layer,) = discover(gs.import_onnx(model), {})
    data = open_data(
        {"x": x}, [InputSpec("x", np.dtype(np.float32), (None, channels, *spatial))], samples=None
    )
    ((found, moments),) = input_moments(CPU, model, [layer], data, 2, lambda _done, _total: None)
    expected = windows(x, layer, pads, stride, dilation)
    assert found is layer
    assert moments.gram.shape[1] == columns(layer)
    assert moments.count == expected.shape[2]
    np.testing.assert_allclose(moments.gram, expected @ expected.transpose(0, 2, 1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments.mean, expected.mean(axis=2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 2, 8), (3, 2, 7), (2, 1, 6), (5, 3, 11), (1, 2, 6), (4, 1, 5)]
)
def test_implicit_pads_are_those_of_the_runtime(auto_pad: str, kernel: int, stride: int, size: int) -> None:
    """A free size: the moments then give the energy of what a Conv of the same windows gives."""
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[n, 2, h, w_] x) => (float[n, 1, a, b] y)
      {{ y = Conv <auto_pad = "{auto_pad}", strides = [{stride}, {stride}]> (x, w) }}"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((1, 2, kernel, kernel)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = np.random.default_rng(1).standard_normal((20, 2, size, size + 1)).astype(np.float32)
    (layer,) = discover(gs.import_onnx(model), {})
    data = open_data(
        {"x": x}, [InputSpec("x", np.dtype(np.float32), (None, 2, size, size + 1))], samples=None
    )
    ((_, moments),) = input_moments(CPU, model, [layer], data, 2, lambda _done, _total: None)
    y = CPU.session(model).run({"x": x})["y"].astype(np.float64)
    row = weight.reshape(-1).astype(np.float64)
    assert moments.count == y.size
    assert row @ moments.gram[0] @ row == pytest.approx(np.square(y).sum(), rel=1e-4)
    assert row @ moments.mean[0] == pytest.approx(y.mean(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("op", "turned"), [("MatMul", False), ("Gemm", False), ("Gemm", True)])
def test_moments_of_a_matrix_product(op: str, turned: bool) -> None:
    attributes = "<transB = 1>" if turned else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[n, 4] x) => (float[n, 3] y) {{ y = {op} {attributes} (x, w) }}'
    )
    weight = np.ones((3, 4) if turned else (4, 3), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = np.random.default_rng(2).standard_normal((7, 4)).astype(np.float32)
    (layer,) = discover(gs.import_onnx(model), {})
    data = open_data({"x": x}, [InputSpec("x", np.dtype(np.float32), (None, 4))], samples=None)
    ((_, moments),) = input_moments(CPU, model, [layer], data, 3, lambda _done, _total: None)
    np.testing.assert_allclose(moments.gram[0], x.T @ x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.mean[0], x.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_nothing_to_see_adds_nothing() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[n, 3, 6, 6] x, bool[n] some) => (float[m, 4, 4, 4] y)
      { taken = Compress <axis = 0> (x, some) y = Conv (taken, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = np.random.default_rng(1).standard_normal((6, 3, 6, 6)).astype(np.float32)
    some = np.array([False, False, True, True, False, False])  # whole batches of two without a window
    (layer,) = discover(gs.import_onnx(model), {})
    specs = [
        InputSpec("x", np.dtype(np.float32), (None, 3, 6, 6)),
        InputSpec("some", np.dtype(np.bool_), (None,)),
    ]
    data = open_data({"x": x, "some": some}, specs, samples=None)
    ((_, moments),) = input_moments(CPU, model, [layer], data, 2, lambda _done, _total: None)
    expected = windows(x[some], layer, 0, 1, 1)
    assert moments.count == expected.shape[2]
    np.testing.assert_allclose(moments.gram, expected @ expected.transpose(0, 2, 1), rtol=1e-4, atol=1e-3)


IMPLICIT = ("bodypix_mnv1_050_s16", "candy_style", "face_landmark", "mnist_cntk")  # that hold auto_pad


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPLICIT)
def test_every_layer_of_an_export_with_implicit_pads_has_moments(name: str) -> None:
    path = shared(f"robustness/{name}.onnx")
    original, session = runnable(CPU, load_model(path))
    evidence = gather(
        session, path, None, None, shapes={}, samples=1, preprocess=None, seed=0, note=lambda _: None
    )
    prepared = prepare(CPU, original, evidence.sample, integer=False, batchable=False)
    wanted = [layer for layer in prepared.layers if has_moments(layer)]
    graph = import_graph(prepared.model)
    EmitGram({layer.weight: EVERY_WINDOW for layer in wanted})(graph)
    emitted = {output.name for output in graph.outputs}
    assert {layer.name for layer in wanted if gram_name(layer.weight) not in emitted} == set()


@pytest.mark.parametrize(("group", "largest"), [(1, 36), (1, 20), (2, 10)])
def test_blocks_are_the_diagonal_of_the_whole(
    group: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 channels the last block is filled up with zeros."""
    model = convolution((4, 5, 3, 3), f"group={group}, pads=[1, 1, 1, 1]", (6, 6), 5 * group)
    x = np.random.default_rng(1).standard_normal((20, 5 * group, 6, 6)).astype(np.float32)
    (layer,) = discover(gs.import_onnx(model), {})
    data = open_data({"x": x}, [InputSpec("x", np.dtype(np.float32), (None, *x.shape[1:]))], samples=None)
    ((_, whole),) = input_moments(CPU, model, [layer], data, 4, lambda _done, _total: None)
    monkeypatch.setattr("onnxmpq.rounding.rows.MOST_COLUMNS", largest)
    ((_, parts),) = input_moments(CPU, model, [layer], data, 4, lambda _done, _total: None)
    blocks, size = block_count(layer), block_columns(layer)
    assert blocks > 1
    assert parts.gram.shape == (group * blocks, size, size)
    assert parts.count == whole.count
    filled = np.pad(whole.gram, [(0, 0), *[(0, blocks * size - 45)] * 2])
    expected = [g[i : i + size, i : i + size] for g in filled for i in range(0, blocks * size, size)]
    np.testing.assert_allclose(parts.gram, expected, rtol=1e-4, atol=1e-3)
    means = np.pad(whole.mean, [(0, 0), (0, blocks * size - 45)]).reshape(parts.mean.shape)
    np.testing.assert_allclose(parts.mean, means, rtol=1e-4, atol=1e-5)


def test_the_covariance_is_the_gram_of_what_the_mean_leaves() -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 50)) + 1
    moments = Moments(x @ x.transpose(0, 2, 1), x.mean(axis=2), 50)
    centred = x - x.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(moments.centred().gram, centred @ centred.transpose(0, 2, 1), atol=1e-9)


def test_emitting_changes_nothing_else() -> None:
    model = convolution((4, 3, 3, 3), "pads=[1, 1, 1, 1]", (6, 6), 3)
    tapped = check_pass(EmitGram({"w": EVERY_WINDOW}), model, kind="exposing")
    assert gram_name("w") in {o.name for o in tapped.graph.output}
    assert not EmitGram({"w": EVERY_WINDOW})(gs.import_onnx(tapped))
    assert not EmitGram({"other": EVERY_WINDOW})(gs.import_onnx(model))


def test_large_maps_are_thinned_to_what_a_matrix_needs() -> None:
    small = example_layer("a", "Conv", ("a",), "w", (8, 3, 3, 3), 0, positions=(8, 8))
    large = example_layer("b", "Conv", ("b",), "w", (8, 3, 3, 3), 0, positions=(512, 512))
    assert taken(small, 64, enough(small)) == EVERY_WINDOW
    step, every = taken(large, 16, enough(large))
    assert step > 3
    assert math.gcd(every, math.ceil(512 / step)) == 1
    assert 16 * (512 // step) ** 2 / every >= enough(large) / 2


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5000))
def test_windows_are_not_taken_of_the_same_columns_only(height: int, width: int, samples: int) -> None:
    layer = example_layer("a", "Conv", ("a",), "w", (8, 1, 3, 3), 0, 8, positions=(height, width))
    step, every = taken(layer, samples, 4096)
    columns = math.ceil(width / step)
    seen = {i % columns for i in range(0, columns * math.ceil(height / step) * every, every)}
    assert seen == set(range(columns))


def test_what_no_matrix_is_made_for() -> None:
    assert not has_moments(example_layer("a", "Conv", ("a",), "w", (8, 3, 80, 80), 0))
    assert not has_moments(example_layer("a", "Conv", ("a",), "w", (8, 3, 3, 3), 0, weights_only=True))
    assert not has_moments(example_layer("a", "Conv", ("a",), "w", (0,), 0, reason="computed"))


@pytest.mark.parametrize(
    ("group", "pads", "stride", "taken"),
    [
        (1, 1, 1, Taken()),
        (3, 0, 2, Taken()),
        (1, 1, 1, Taken(2)),
        (1, 1, 1, Taken(2, 3)),
        (3, 0, 1, Taken(1, 5)),
    ],
)
def test_products_of_a_target_and_the_windows(group: int, pads: int, stride: int, taken: Taken) -> None:
    model = convolution(
        (6, 3 // group, 3, 3), f"group = {group}, pads = [{pads},{pads},{pads},{pads}], strides = [{stride},{stride}]", (7, 9), 3
    )  # fmt: skip
    graph = gs.import_onnx(model)
    assert EmitGram({"w": taken}, {"w": "y"})(graph)
    x = np.random.default_rng(4).standard_normal((2, 3, 7, 9)).astype(np.float32)
    found = CPU.session(gs.export_onnx(graph)).run({"x": x})
    layer = example_layer("c", "Conv", ("c",), "w", (6, 3 // group, 3, 3), 0, group)
    seen = windows(x, layer, pads, stride * taken.step, 1)[:, :, :: taken.every]
    order = np.arange(9 * (3 // group)).reshape(3 // group, 9).T.ravel()  # tap by tap, as the pass counts
    target = found["y"][:, :, :: taken.step, :: taken.step]
    target = (
        target.reshape(2, group, 6 // group, -1)
        .transpose(1, 2, 0, 3)
        .reshape(group, 6 // group, -1)[:, :, :: taken.every]
    )
    assert np.allclose(
        found["w/cross"][:, :, :-1], target @ seen.transpose(0, 2, 1)[:, :, order], rtol=1e-3, atol=1e-3
    )
    assert np.allclose(found["w/cross"][:, :, -1], target.sum(axis=2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "samples", "synthetic", "known"),
    [
        (8, 8, False, True),
        (7, 7, False, False),
        (127, 127, True, False),
        (128, 128, True, True),
        (127, 3, False, False),
        (128, 2, False, True),
    ],
)
def test_how_many_windows_tell_something(count: int, samples: int, synthetic: bool, known: bool) -> None:
    """A sixteenth of 128 columns, but as many as columns of noise or of next to no samples."""
    specs = [InputSpec("x", np.dtype(np.float32), (None, 2))]
    data = (
        synthetic_data(specs, samples=samples, seed=0)
        if synthetic
        else open_data({"x": np.zeros((samples, 2), np.float32)}, specs, samples=None)
    )
    assert is_known(example_layer("fc", "Gemm", ("fc",), "w", (40, 128), 0), count, data) is known


@pytest.mark.parametrize("value", [1.7, 1000.0])
def test_a_constant_column_is_left_with_nothing(value: float) -> None:
    """In single precision its energy less its mean's is rounding noise, of either sign."""
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    x[:, 2] = value
    moments = (x.T @ x).astype(np.float64)[None]
    found = centred(moments, x.mean(axis=0, dtype=np.float64)[None], 64)
    assert not found[:, 2].any()
    assert not found[:, :, 2].any()
    others = np.delete(x, 2, axis=1).astype(np.float64)
    rest = np.delete(np.delete(found[0], 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(rest, 64 * np.cov(others.T, bias=True), rtol=1e-3, atol=1e-3)


def test_a_constant_column_whose_rounding_noise_is_positive_is_left_with_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 100))
    x[:, 1] = 7.0
    gram = x @ x.transpose(0, 2, 1)
    gram[0, 1, 1] *= 1 + 1e-8
    found = centred(gram, x.mean(axis=2), 100)[0]
    assert not found[1].any()
    assert not found[:, 1].any()
    assert (np.diag(found)[[0, 2]] > 0).all()
