"""The straight-through estimator against its formula: differences of a step function tell nothing."""

from typing import Any

import numpy as np
import onnx
import pytest
from central_differences import check_gradients

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.testing import check_pass, model_of, run

HEADER = '<ir_version: 10, opset_import: ["": 21]> '
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


def learned_step(x: Any, scale: Any, zero: Any, low: int, high: int) -> tuple[Any, Any]:
    """(slope of x, slope of the scale) of LSQ, equation 3 and below, with a zero point."""
    v = x / scale
    inside = (v + zero >= low) & (v + zero <= high)
    clipped = np.where(v + zero > high, high, low) - zero
    return inside.astype(float), np.where(inside, np.round(v) - v, clipped)


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("axis", [None, 1, 0, 2])
@pytest.mark.parametrize("with_zero", [True, False])
def test_learned_step_size(kind: str, axis: int | None, with_zero: bool) -> None:
    if not with_zero and kind != "uint8":
        kind = "uint8"
    rng = np.random.default_rng(0)
    shape, count = (3, 4, 5), 1 if axis is None else (3, 4, 5)[axis]
    low, high = RANGES[kind]
    scale = rng.uniform(0.5, 1.5, count).astype(np.float32)
    zero = rng.integers(low // 3, high // 3, count) if with_zero else np.zeros(count, int)
    x = (rng.uniform(1.3 * low, 1.3 * high, shape)).astype(np.float32)
    r = rng.standard_normal(shape).astype(np.float32)
    vector = [] if axis is None else [count]
    constants = {"s": scale.reshape(vector), "z": zero.astype(kind).reshape(vector), "r": r}
    attrs = "" if axis is None else f"<axis = {axis}>"
    operands = "s, z" if with_zero else "s"
    model = model_of(
        HEADER
        + f"""
        g (float[3, 4, 5] x) => (float loss) {{
            q = QuantizeLinear {attrs} (x, {operands})
            y = DequantizeLinear {attrs} (q, {operands})
            w = Mul (y, r)
            loss = ReduceSum <keepdims = 0> (w)
        }}
    """,
        **constants,
    )
    shapes = dict.fromkeys(("x", "q", "y", "w"), shape)
    emitted = check_pass(EmitGradients("loss", ("x", "s"), shapes), model, {"x": x}, kind="exposing")
    found = run(emitted, {"x": x})
    beside = [1, 1, 1]
    if axis is not None:
        beside[axis] = count
    slope, by_scale = learned_step(x, scale.reshape(beside), zero.reshape(beside), low, high)
    np.testing.assert_allclose(found["x/gradient"], r * slope, rtol=1e-5)
    others = tuple(i for i in range(3) if i != axis)
    expected = (r * by_scale).sum(axis=others)
    np.testing.assert_allclose(found["s/gradient"], expected, rtol=1e-4, atol=1e-3 * np.abs(by_scale).max())


def test_weights_stored_as_codes_have_a_gradient_for_their_scale() -> None:
    model = model_of(
        HEADER + "g (float[2, 3] x) => (float[2, 4] y) { w = DequantizeLinear <axis = 1> (q, s, z) y = MatMul (x, w) }",
        q=np.arange(12, dtype=np.int8).reshape(3, 4), s=np.ones(4, np.float32), z=np.arange(4, dtype=np.int8),
    )  # fmt: skip
    check_gradients(model, ["x", "s"], step=0.5)


def test_codes_that_are_moved_on_the_way_have_a_gradient_too() -> None:
    model = model_of(
        HEADER + """g (float[2, 6] x) => (float loss) {
            q = QuantizeLinear (x, s, z)  m = Reshape (q, k)  t = Transpose <perm = [1, 0]> (m)
            y = DequantizeLinear (t, s, z)  w = Mul (y, r)  loss = ReduceSum <keepdims = 0> (w) }""",
        s=np.array(0.5, np.float32), z=np.array(3, np.int8), k=np.array([3, 4]), r=np.arange(12, dtype=np.float32).reshape(4, 3),
    )  # fmt: skip
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6)
    found = run(check_pass(EmitGradients("loss", ("x", "s")), model, {"x": x}, kind="exposing"), {"x": x})
    r = np.arange(12, dtype=np.float32).reshape(4, 3).T.reshape(2, 6)
    np.testing.assert_allclose(found["x/gradient"], r)
    np.testing.assert_allclose(found["s/gradient"], (r * (np.round(x / 0.5) - x / 0.5)).sum(), rtol=1e-5)


def test_scales_by_block_are_refused() -> None:
    model = model_of(
        HEADER + """g (float[4] x) => (float loss) {
            w = DequantizeLinear <axis = 0, block_size = 2> (q, s)  y = MatMul (x, w)
            loss = ReduceSum <keepdims = 0> (y) }""",
        q=np.arange(12, dtype=np.int8).reshape(4, 3), s=np.ones((2, 3), np.float32),
    )  # fmt: skip
    with pytest.raises(ModelError, match="its scales are by block"):
        EmitGradients("loss", ("s",))(import_graph(model))


@pytest.mark.parametrize("body", [
    "q = QuantizeLinear (x, s, z)  c = Cast <to = 1> (q)  d = Sub (c, three)",
    "q = QuantizeLinear (x, s, z)  i = Cast <to = 6> (q)  j = Sub (i, whole)  d = Cast <to = 1> (j)",
    "q = QuantizeLinear (x, s, z)  c = Cast <to = 10> (q)  h = Sub (c, half)  d = Cast <to = 1> (h)",
    "q = QuantizeLinear <output_dtype = 22> (x, s)  d = Cast <to = 1> (q)",
])  # fmt: skip
def test_codes_that_are_scaled_by_other_nodes(body: str) -> None:
    model = model_of(
        HEADER + f"g (float[4] x) => (float loss) {{ {body}  y = Mul (d, s)  loss = ReduceSum <keepdims = 0> (y) }}",
        s=np.array(0.5, np.float32), z=np.array(3, np.int8), three=np.array(3, np.float32),
        whole=np.array(3, np.int32), half=np.array(3, np.float16),
    )  # fmt: skip
    x = np.array([-99.0, -1.2, 1.3, 99.0], np.float32)
    found = run(check_pass(EmitGradients("loss", ("x",)), model, {"x": x}, kind="exposing"), {"x": x})
    np.testing.assert_array_equal(found["x/gradient"], [0, 1, 1, 0])


def test_codes_of_a_type_that_numpy_lacks() -> None:
    model = model_of(
        HEADER + """g (float[4] x) => (float loss) {
            q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z)  loss = ReduceSum <keepdims = 0> (y) }""",
        s=np.array(0.5, np.float32),
    )  # fmt: skip
    model.graph.initializer.append(onnx.helper.make_tensor("z", onnx.TensorProto.INT4, [], [0]))
    x = np.array([-9.0, -1.2, 1.3, 9.0], np.float32)
    found = run(check_pass(EmitGradients("loss", ("x",)), model, {"x": x}, kind="exposing"), {"x": x})
    np.testing.assert_array_equal(found["x/gradient"], [0, 1, 1, 0])


def test_indices_of_codes_have_no_gradient() -> None:
    model = model_of(
        HEADER + """g (float[4] x) => (float loss) {
            q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z)
            v, i = TopK (q, k)  c = Cast <to = 1> (i)  t = ReduceSum <keepdims = 0> (c)
            u = ReduceSum <keepdims = 0> (y)  loss = Add (u, t) }""",
        s=np.array(0.5, np.float32), z=np.array(0, np.int8), k=np.array([2]),
    )  # fmt: skip
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    found = run(check_pass(EmitGradients("loss", ("x",)), model, {"x": x}, kind="exposing"), {"x": x})
    np.testing.assert_array_equal(found["x/gradient"], np.ones(4))


def test_the_gradient_of_a_scale_in_a_vector_of_one_value_has_its_shape() -> None:
    model = model_of(
        HEADER
        + """g (float[3, 4] x, float[1] s) => (float loss) {
            q = QuantizeLinear (x, s)  y = DequantizeLinear (q, s)  loss = ReduceSum <keepdims = 0> (y) }"""
    )
    x = np.random.default_rng(0).uniform(0, 2, (3, 4)).astype(np.float32)
    feeds = {"x": x, "s": np.array([0.01], np.float32)}
    shapes = {"x": (3, 4), "s": (1,), "q": (3, 4), "y": (3, 4)}
    found = run(check_pass(EmitGradients("loss", ("s",), shapes), model, feeds, kind="exposing"), feeds)
    _, slope = learned_step(x, feeds["s"], 0, 0, 255)
    np.testing.assert_allclose(found["s/gradient"], [slope.sum()], rtol=1e-3)
    assert found["s/gradient"].shape == (1,)
