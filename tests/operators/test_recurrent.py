"""LSTM, GRU and RNN: two layers at one node, each with a scale for every row of every direction."""

import numpy as np
import onnx
import pytest

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.operators import OPERATORS
from onnxmpq.passes.expose.emit_gram import EVERY_WINDOW, EmitGram, gram_name
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.moments import has_moments
from onnxmpq.testing import model_of, run
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RNG = np.random.default_rng(0)
INPUTS, HIDDEN, STEPS, BATCH = 6, 5, 7, 2
SHAPES = {"x": (STEPS, BATCH, INPUTS)}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def network(op: str, directions: int = 2) -> onnx.ModelProto:
    direction = "bidirectional" if directions == 2 else "reverse"
    rows = GATES[op] * HIDDEN
    return model_of(
        f"""g (float[{STEPS}, {BATCH}, {INPUTS}] x) => (float[{STEPS}, {directions}, {BATCH}, {HIDDEN}] y) {{
            y = {op} <hidden_size = {HIDDEN}, direction = "{direction}"> (x, w, r) }}""",
        w=floats(directions, rows, INPUTS), r=floats(directions, rows, HIDDEN),
    )  # fmt: skip


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    return discover(import_graph(model), SHAPES)


@pytest.mark.parametrize("op", GATES)
def test_both_matrices_are_layers_with_names_of_their_own(op: str) -> None:
    found = layers(network(op))
    assert [(la.name, la.op, la.weight, la.nodes, la.reason) for la in found] == [
        ("y.W", op, "w", ("y",), None),
        ("y.R", op, "r", ("y",), None),
    ]


@pytest.mark.parametrize("op", GATES)
def test_macs_are_those_of_every_step_of_every_sequence(op: str) -> None:
    of_inputs, of_states = layers(network(op))
    assert of_inputs.macs == STEPS * BATCH * 2 * GATES[op] * HIDDEN * INPUTS
    assert of_states.macs == STEPS * BATCH * 2 * GATES[op] * HIDDEN * HIDDEN


@pytest.mark.parametrize("directions", [1, 2])
def test_every_row_of_every_direction_has_a_scale(directions: int) -> None:
    model = network("GRU", directions)
    for layer in layers(model):
        assert layer.channels == directions * 3 * HIDDEN
        rounded = Candidates(model).quantized(layer, 8)
        assert rounded.scale.shape == ((2, 15) if directions == 2 else (15,))
        assert rounded.codes.shape == layer.shape
        weight = onnx.numpy_helper.to_array(
            next(i for i in model.graph.initializer if i.name == layer.weight)
        )
        assert np.abs(rounded.dequantize() - weight).max() < np.abs(weight).max() / 127


def test_what_w_sees_is_known_and_what_r_sees_is_not() -> None:
    model = network("LSTM")
    of_inputs, of_states = layers(model)
    assert has_moments(of_inputs)
    assert not has_moments(of_states)
    graph = import_graph(model)
    EmitGram({"w": EVERY_WINDOW, "r": EVERY_WINDOW})(graph)
    feeds = {"x": floats(STEPS, BATCH, INPUTS)}
    outputs = run(export_model(graph, model), feeds)
    rows = feeds["x"].reshape(-1, INPUTS)
    np.testing.assert_allclose(outputs[gram_name("w")][0, :-1, :-1], rows.T @ rows, rtol=1e-4, atol=1e-4)
    assert gram_name("r") not in outputs


def test_rounding_against_the_inputs_keeps_the_layers_shape() -> None:
    from onnxmpq.rounding.candidates import fitted
    from onnxmpq.rounding.moments import Moments

    model = network("LSTM")
    layer = layers(model)[0]
    x = floats(500, INPUTS).astype(np.float64) @ np.diag([3.0, 1, 1, 1, 1, 0.1])
    moments = Moments((x.T @ x)[None], x.mean(axis=0)[None], 500.0)
    given, found = fitted(Candidates(model).task(layer, moments, [3]))
    ((rounded, shift),) = found
    assert (given, shift) == (layer, None)
    assert (rounded.codes.shape, rounded.scale.shape, rounded.axis) == (layer.shape, (2, 20), 1)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    blind = Candidates(model).quantized(layer, 3)

    def lost(dequantized: Array) -> float:
        return float(np.square((weight - dequantized).reshape(-1, INPUTS) @ x.T).sum())

    assert lost(rounded.dequantize()) < lost(blind.dequantize())


def test_none_is_linear_in_its_weights() -> None:
    assert {OPERATORS[op].use for op in GATES} == {"recurrence"}
