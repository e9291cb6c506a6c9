"""The chain must give what the whole model gives, for every layer and any weight."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.parts import part_session
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.runtime.trace import trace
from onnxmpq.sensitivity.chain import Chain
from onnxmpq.testing.models import example_layer
from onnxmpq.values.layer import Layer

CPU = Runtime("cpu", threads=1)

# A residual block, a branch that starts before its neighbour, a shared weight used far apart, and two outputs.
TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y, float[n, 4] z)
<float[4, 3, 1, 1] w0, float[4, 4, 3, 3] w1, float[4, 4, 3, 3] w2, float[4, 3, 1, 1] w3, float[4, 4] w4>
{
  a = Conv (x, w0)
  r = Relu (a)
  b = Conv <pads = [1, 1, 1, 1]> (r, w1)
  c = Conv (x, w3)
  s = Add (b, c)
  d = Conv <pads = [1, 1, 1, 1]> (s, w2)
  e = Conv <pads = [1, 1, 1, 1]> (d, w1)
  y = Add (e, r)
  p = GlobalAveragePool (y)
  f = Flatten (p)
  z = MatMul (f, w4)
}
"""


def network() -> onnx.ModelProto:
    """The text with random weights in place of the declared initializers' lack of values."""
    shapes = {"w0": (4, 3, 1, 1), "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 3, 1, 1), "w4": (4, 4)}
    head, _, body = TEXT.partition("<float[4, 3, 1, 1] w0")
    model = onnx.parser.parse_model(head + body[body.index("{") :])
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def with_weight(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    next(i for i in changed.graph.initializer if i.name == name).CopyFrom(
        numpy_helper.from_array(values, name)
    )
    return changed


def load(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[tuple[Layer, ...], dict[str, Traced]]:
    traced = trace(CPU, model, feeds)
    return discover(import_graph(model), {name: t.shape for name, t in traced.items()}), traced


@pytest.mark.parametrize("rest_bytes", [0, 1 << 30])
@pytest.mark.parametrize("layers_a_part", [1, 2, 3, 100])
def test_every_layer_gives_what_the_whole_model_gives(layers_a_part: int, rest_bytes: int) -> None:
    model = network()
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    layers, traced = load(model, {"x": feeds["x"][:1]})
    chain = Chain(CPU, model, layers, traced, layers_a_part=layers_a_part, rest_bytes=rest_bytes)
    expected = CPU.session(model).run(feeds)
    for name, values in chain.outputs(feeds).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)
    seen = []
    for step in chain.steps(feeds):
        weight = rng.standard_normal(step.layer.shape).astype(np.float32)
        whole = CPU.session(with_weight(model, step.layer.weight, weight)).run(feeds)
        for name, values in step.outputs({step.layer.weight: weight}).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-3, atol=1e-3)
        seen.append(step.layer.name)
    assert seen == [layer.name for layer in layers]


def deep(layers: int) -> onnx.ModelProto:
    """So many matrices and rectifiers, one behind the other."""
    body, names = "", [f"w{i}" for i in range(layers)]
    for i, name in enumerate(names):
        body += f"a{i} = MatMul (r{i}, {name}) r{i + 1} = Relu (a{i}) "
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[n, 4] r0) => (float[n, 4] r{layers}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    values = [numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), name) for name in names]
    model.graph.initializer.extend(values)
    return model


@pytest.mark.parametrize("rest_bytes", [0, 1 << 30])
def test_what_is_held_grows_with_the_depth_and_not_with_its_square(
    monkeypatch: pytest.MonkeyPatch, rest_bytes: int
) -> None:
    nodes: list[int] = []

    def counted(runtime: Runtime, model: onnx.ModelProto, whole: onnx.ModelProto) -> Session:
        nodes.append(len(model.graph.node))
        return part_session(runtime, model, whole)

    monkeypatch.setattr("onnxmpq.sensitivity.chain.part_session", counted)
    held = []
    for depth in (200, 400):
        nodes.clear()
        model, feeds = deep(depth), {"r0": np.ones((1, 4), np.float32)}
        layers, traced = load(model, feeds)
        chain = Chain(CPU, model, layers, traced, rest_bytes=rest_bytes)
        held.append((len(nodes), sum(nodes)))
        np.testing.assert_allclose(
            chain.outputs(feeds)[f"r{depth}"], CPU.session(model).run(feeds)[f"r{depth}"]
        )
    (sessions, all_nodes), (more_sessions, more_nodes) = held
    assert more_sessions < 2.1 * sessions
    assert more_nodes < 2.1 * all_nodes


def test_only_what_comes_behind_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session, loaded = Runtime.session, list[onnx.ModelProto]()

    def spy(runtime: Runtime, model: onnx.ModelProto, **options: Any) -> Session:
        loaded.append(model)
        return session(runtime, model, **options)

    model = network()
    layers, traced = load(model, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    monkeypatch.setattr(Runtime, "session", spy)
    Chain(CPU, model, layers, traced)
    tails = {
        i.name: part.graph.node for part in loaded for i in part.graph.input
    }  # by the weight that each is fed
    assert "Conv" not in {n.op_type for n in tails["w4"]}
    assert len(tails["w3"]) < len(model.graph.node) - 2


def test_sequences_and_optionals_cross_cuts() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y)
    {
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      none = SequenceEmpty <dtype = 1> ()
      a = Conv <pads = [1, 1, 1, 1]> (x, w0)
      pair = SequenceConstruct (x, a)
      maybe = Optional (a)
      b = Conv <pads = [1, 1, 1, 1]> (a, w1)
      three = SequenceInsert (pair, b)
      both = SequenceInsert (none, b)
      c = Conv <pads = [1, 1, 1, 1]> (b, w2)
      second = SequenceAt (three, one)
      first = SequenceAt (both, zero)
      held = OptionalGetElement (maybe)
      y = Sum (c, second, first, held)
    }
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(4)
    for name in ("w0", "w1", "w2"):
        values = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    feeds = {"x": rng.standard_normal((2, 4, 6, 6)).astype(np.float32)}
    layers, traced = load(model, {"x": feeds["x"][:1]})
    chain = Chain(CPU, model, layers, traced, layers_a_part=1, rest_bytes=0)
    np.testing.assert_allclose(
        chain.outputs(feeds)["y"], CPU.session(model).run(feeds)["y"], rtol=1e-4, atol=1e-4
    )
    steps = 0
    for step in chain.steps(feeds):
        weight = rng.standard_normal(step.layer.shape).astype(np.float32)
        whole = CPU.session(with_weight(model, step.layer.weight, weight)).run(feeds)["y"]
        np.testing.assert_allclose(
            step.outputs({step.layer.weight: weight})["y"], whole, rtol=1e-3, atol=1e-3
        )
        steps += 1
    assert steps == 3


def test_control_flow_bodies_are_followed() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[1, 4] x, bool c) => (float[1, 4] y)
    {
      h = MatMul (x, w)
      y = If (c) <
        then_branch = t () => (float[1, 4] u) { u = MatMul (h, v) },
        else_branch = e () => (float[1, 4] u) { u = Identity (h) }>
    }
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(2)
    for name in ("w", "v"):
        model.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), name)
        )
    feeds = {"x": rng.standard_normal((1, 4)).astype(np.float32), "c": np.array(True)}
    layers = (
        example_layer("h", "MatMul", ("h",), "w", (4, 4), 1),
        example_layer("u", "MatMul", ("u",), "v", (4, 4), 1, weights_only=True),
    )
    for step in Chain(CPU, model, layers, trace(CPU, model, feeds)).steps(feeds):
        weight = rng.standard_normal((4, 4)).astype(np.float32)
        whole = CPU.session(with_weight(model, step.layer.weight, weight)).run(feeds)
        np.testing.assert_allclose(step.outputs({step.layer.weight: weight})["y"], whole["y"], rtol=1e-5)
