"""What the table says of each operator, held against what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.operators import OPERATORS, held_places, operator_of
from onnxmpq.passes.expose.emit_gram import EVERY_WINDOW, EmitGram, cross_name, gram_name
from onnxmpq.rounding.moments import channel_major, has_moments
from onnxmpq.rounding.rows import channel_scales, columns, from_rows, row_scales, to_rows
from onnxmpq.testing import model_of, run
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

# Of each operator: a node of input x and weight w, the shapes of both, and of its output.
CASES: Mapping[str, tuple[str, Sequence[int], Sequence[int], Sequence[int]]] = {
    "Conv": ("Conv <pads = [1, 1, 1, 1]> (x, w)", (2, 3, 5, 5), (6, 3, 3, 3), (2, 6, 5, 5)),
    "Conv, grouped": ("Conv <group = 2> (x, w)", (2, 4, 5, 5), (6, 2, 3, 3), (2, 6, 3, 3)),
    "ConvTranspose": ("ConvTranspose <group = 2> (x, w)", (2, 4, 5, 5), (4, 3, 2, 2), (2, 6, 6, 6)),
    "Gemm": ("Gemm <transB = 1> (x, w)", (5, 7), (4, 7), (5, 4)),
    "Gemm, not turned": ("Gemm (x, w)", (5, 7), (7, 4), (5, 4)),
    "Einsum": ('Einsum <equation = "bsd,dhk->bshk"> (x, w)', (2, 5, 7), (7, 3, 4), (2, 5, 3, 4)),
    "Einsum, two sums": ('Einsum <equation = "bhsk,hkd->bsd"> (x, w)', (2, 3, 5, 4), (3, 4, 6), (2, 5, 6)),
    "Einsum, w first": ('Einsum <equation = "jk,bij->bki"> (w, x)', (2, 5, 7), (7, 4), (2, 4, 5)),
    "MatMul": ("MatMul (x, w)", (2, 5, 7), (7, 4), (2, 5, 4)),
}
LEARNING = [name for name in CASES if OPERATORS[name.split(",")[0]].targets is not None]


def network(name: str) -> tuple[dict[str, Array], Layer, bytes]:
    """Samples, the layer, and the model."""
    node, x, w, y = CASES[name]
    rng = np.random.default_rng(0)
    text = f"g (float{list(x)} x, float{list(y)} t) => (float{list(y)} y) {{ y = {node} }}"
    model = model_of(text, w=rng.standard_normal(w).astype(np.float32))
    feeds = {"x": rng.standard_normal(x).astype(np.float32), "t": rng.standard_normal(y).astype(np.float32)}
    (layer,) = discover(import_graph(model), {"x": x, "y": y})
    return feeds, layer, model.SerializeToString()


def emitted(name: str, *, target: bool = False) -> tuple[Layer, dict[str, Array]]:
    import onnx

    feeds, layer, data = network(name)
    model = onnx.load_from_string(data)
    graph = import_graph(model)
    assert EmitGram({"w": EVERY_WINDOW}, {"w": "t"} if target else {})(graph)
    outputs = run(export_model(graph, model), feeds)
    return layer, {**feeds, **outputs, "w": onnx.numpy_helper.to_array(model.graph.initializer[0])}


@pytest.mark.parametrize("name", CASES)
def test_rows_and_columns_are_the_weight_in_another_order(name: str) -> None:
    _, layer, _ = network(name)
    weight = np.arange(layer.params, dtype=np.float32).reshape(layer.shape)
    rows = to_rows(weight, layer)
    assert rows.shape == (layer.group, layer.params // layer.group // columns(layer), columns(layer))
    np.testing.assert_array_equal(from_rows(rows, layer), weight)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_one_channel_share_its_scale(name: str) -> None:
    _, layer, _ = network(name)
    scale = np.arange(1, layer.channels + 1, dtype=np.float32)
    along = np.reshape(scale, [-1 if i == layer.axis else 1 for i in range(len(layer.shape))])
    spread = to_rows(np.broadcast_to(along, layer.shape), layer)
    np.testing.assert_array_equal(row_scales(scale, layer), spread[:, :, 0])
    np.testing.assert_array_equal(channel_scales(row_scales(scale, layer), layer), scale)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_rows_times_windows(name: str) -> None:
    """The sum of squared outputs is the trace of W G W^T (of a ConvTranspose: of what its taps give)."""
    layer, found = emitted(name)
    assert has_moments(layer)
    order = channel_major(layer)[:-1]
    gram = found[gram_name("w")][:, order][:, :, order].astype(np.float64)
    rows = to_rows(found["w"].astype(np.float64), layer)
    energy = np.einsum("grd,gde,gre->", rows, gram, rows)
    if layer.op == "ConvTranspose":
        windows = found["x"].reshape(2, layer.group, -1, 25).astype(np.float64)
        outputs = np.einsum("grd,ngdp->ngrp", rows, windows)
    else:
        outputs = found["y"].astype(np.float64)
    np.testing.assert_allclose(energy, np.square(outputs).sum(), rtol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
def test_targets_stand_where_the_windows_are(name: str) -> None:
    """<t, y> is the trace of C W^T with C the products of targets and windows."""
    layer, found = emitted(name, target=True)
    cross = found[cross_name("w")][:, :, channel_major(layer)][:, :, :-1].astype(np.float64)
    along = np.einsum("grd,grd->", cross, to_rows(found["w"].astype(np.float64), layer))
    np.testing.assert_allclose(
        along, np.vdot(found["t"].astype(np.float64), found["y"]), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", CASES)
def test_macs_are_those_of_the_definition(name: str) -> None:
    _, layer, _ = network(name)
    _, x, w, y = CASES[name]
    if name.startswith("Conv"):
        positions = x if name.startswith("ConvT") else y
        assert layer.macs == np.prod(w) * 2 * np.prod(positions[2:])
    else:
        assert layer.macs == np.prod(y) * columns(layer)


def test_operators_of_other_domains_are_none() -> None:
    graph = import_graph(model_of("g (float[2, 2] x) => (float[2, 2] y) { y = MatMul (x, x) }"))
    (node,) = graph.nodes
    assert operator_of(node) is OPERATORS["MatMul"]
    assert held_places(node) == []
    node.domain = "com.example"
    assert operator_of(node) is None
