import logging

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.passes.normalize.fold_batch_norm import fold_batch_norm
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

NORM = "y = BatchNormalization (c, gamma, beta, mean, var)"


def floats(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def statistics(channels: int, dtype: type = np.float32) -> dict[str, Array]:
    names = ("gamma", "beta", "mean")
    stats = {name: floats(channels, seed=i + 1, dtype=dtype) for i, name in enumerate(names)}
    return {**stats, "var": np.abs(floats(channels, seed=9, dtype=dtype)) + dtype(0.1)}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.sampled_from(["Conv", "ConvTranspose"]),
)
@settings(max_examples=20, deadline=None)
def test_convolutions_of_any_rank_and_group(dims: int, group: int, biased: bool, op: str) -> None:
    shape = (8, 4 // group) if op == "Conv" else (4, 8 // group)
    weights = {"w": floats(*shape, *[3] * dims)} | ({"b": floats(8)} if biased else {})
    space = ", ".join(["5"] * dims)
    text = f"""g (float[2, 4, {space}] x) => (float[2, 8, {", ".join("?" * dims)}] y) {{
        c = {op} <group = {group}> (x, w{", b" if biased else ""})  {NORM} }}"""
    folded = check_pass(fold_batch_norm, model_of(text, **weights, **statistics(8)))
    assert ops(folded) == [op]
    assert set(initializers(folded)) == ({"w", "b"} if biased else {"w", "w_bias"})


@given(
    st.booleans(),
    st.sampled_from([None, (6,), (1, 6), (1,), ()]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_gemm_with_its_factors(
    transposed: bool, bias_shape: tuple[int, ...] | None, alpha: float, beta: float
) -> None:
    weights = {"w": floats(6, 4) if transposed else floats(4, 6)}
    if bias_shape is not None:
        weights["b"] = np.asarray(floats(*bias_shape))
    text = f"""g (float[3, 4] x) => (float[3, 6] y) {{
        c = Gemm <alpha = {alpha}, beta = {beta}, transB = {int(transposed)}> (x, w{"" if bias_shape is None else ", b"})
        {NORM} }}"""
    assert ops(check_pass(fold_batch_norm, model_of(text, **weights, **statistics(6)))) == ["Gemm"]


def test_a_matmul_keeps_the_shift_as_an_add() -> None:
    text = f"g (float[3, 4] x) => (float[3, 6] y) {{ c = MatMul (x, w)  {NORM} }}"
    folded = check_pass(fold_batch_norm, model_of(text, w=floats(4, 6), **statistics(6)))
    assert ops(folded) == ["MatMul", "Add"]


@pytest.mark.parametrize("add", ["Add (m, b)", "Add (b, m)"])
def test_a_matmul_with_its_add(add: str) -> None:
    text = f"g (float[N, 4] x) => (float[N, 6] y) {{ r = Relu (x)  m = MatMul (r, w)  c = {add}  {NORM} }}"
    folded = check_pass(fold_batch_norm, model_of(text, w=floats(4, 6), b=floats(6), **statistics(6)))
    assert ops(folded) == ["Relu", "MatMul", "Add"]


def test_half_precision_stays_half() -> None:
    text = f"g (float16[1, 4, 5, 5] x) => (float16[1, 8, 5, 5] y) {{ c = Conv (x, w)  {NORM} }}"
    model = model_of(text, w=floats(8, 4, 1, 1, dtype=np.float16), **statistics(8, np.float16))
    folded = check_pass(fold_batch_norm, model, decibels=50)
    assert {values.dtype for values in initializers(folded).values()} == {np.dtype(np.float16)}


def test_the_arithmetic_is_double() -> None:
    """The formula of the docstring, to the last bit of float32."""
    w, stats = floats(8, 4, 1, 1), statistics(8)
    text = f"g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] y) {{ c = Conv (x, w)  {NORM} }}"
    folded = initializers(check_pass(fold_batch_norm, model_of(text, w=w, **stats)))
    gamma, beta, mean, var = (stats[k].astype(np.float64) for k in ("gamma", "beta", "mean", "var"))
    scale = gamma / np.sqrt(var + np.float32(1e-5))
    np.testing.assert_array_equal(folded["w"], (w * scale.reshape(-1, 1, 1, 1)).astype(np.float32))
    np.testing.assert_allclose(folded["w_bias"], beta - mean * scale, rtol=1e-7)


def test_an_output_name_is_kept_and_a_shared_bias_too() -> None:
    text = f"""g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] z, float[1, 8, 5, 5] y) {{
        c = Conv (x, w, b)  z = Conv (x, v, b)  {NORM} }}"""
    folded = check_pass(
        fold_batch_norm,
        model_of(text, w=floats(8, 4, 1, 1), v=floats(8, 4, 1, 1), b=floats(8), **statistics(8)),
    )
    assert set(initializers(folded)) == {"w", "v", "b", "b_1"}


CONV = "g (float[1, 4, 5, 5] x) => ({outputs}) {{ {nodes} }}"
Y = "float[1, 8, 5, 5] y"


@pytest.mark.parametrize(
    ("outputs", "nodes", "reason"),
    [
        (f"{Y}, float[1, 8, 5, 5] c", f"c = Conv (x, w)  {NORM}", "c is a graph output"),
        (f"{Y}, float[1, 8, 5, 5] z", f"c = Conv (x, w)  {NORM}  z = Relu (c)", "read 2 times"),
        (
            f"{Y}, float[1, 8, 5, 5] z",
            f"c = Conv (x, w)  {NORM}  z = Conv (x, w)",
            "w is read by other nodes too",
        ),
        (Y, f"v = Relu (w)  c = Conv (x, v)  {NORM}", "v is not a floating-point constant"),
        (
            Y,
            "c = Conv (x, w)  s = Relu (gamma)  y = BatchNormalization (c, s, beta, mean, var)",
            "s is not constant",
        ),
        (Y, f"d = Conv (x, w)  c = Relu (d)  {NORM}", "made by Relu"),
        (Y, f"d = Conv (x, w)  c = Add (d, gamma8)  {NORM}", "no MatMul's bias"),
        (f"{Y}, float[8, 4, 1, 1] w", f"c = Conv (x, w)  {NORM}", "w is a graph output"),
        (
            f"{Y}, float[8] m, float[8] v",
            "c = Conv (x, w)  y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var)",
            "training mode",
        ),
    ],
)
def test_what_is_refused_and_why(
    outputs: str, nodes: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    constants = {"w": floats(8, 4, 1, 1), **statistics(8), "gamma8": floats(8, 1, 1)}
    used = {name: value for name, value in constants.items() if name in nodes}
    model = model_of(CONV.format(outputs=outputs, nodes=nodes), **used)
    assert "BatchNormalization" in ops(check_pass(fold_batch_norm, model))
    assert reason in caplog.text


@pytest.mark.parametrize("shape", ["3, 6, 4", "?, ?, ?"])
def test_behind_a_matmul_of_more_than_two_dimensions_it_stays(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = f"g (float[3, 6, 4] x) => (float[{shape}] y) {{ c = MatMul (x, w)  {NORM} }}"
    model = model_of(text, w=floats(4, 6), **statistics(6))
    assert ops(check_pass(fold_batch_norm, model)) == ["MatMul", "BatchNormalization"]
    assert "axis 1" in caplog.text


def test_a_half_that_would_overflow_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stats = statistics(8, np.float16) | {
        "var": np.full(8, 1e-7, np.float16),
        "gamma": np.full(8, 6e4, np.float16),
    }
    text = f"g (float16[1, 4, 5, 5] x) => (float16[1, 8, 5, 5] y) {{ c = Conv (x, w)  {NORM} }}"
    model = model_of(text, w=floats(8, 4, 1, 1, dtype=np.float16), **stats)
    zeros = {"x": np.zeros((1, 4, 5, 5), np.float16)}
    assert ops(check_pass(fold_batch_norm, model, zeros)) == ["Conv", "BatchNormalization"]
    assert "would overflow float16" in caplog.text
