import logging

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.passes.normalize.fold_affine import fold_affine
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

CONV = "g (float[2, 4, 5, 5] x) => (float[2, 8, 5, 5] y) {{ c = Conv (x, w)  {} }}"


def floats(*shape: int, seed: int = 0) -> Array:
    """Never near zero, since some are divided by."""
    values = np.random.default_rng(seed).uniform(0.5, 2.0, shape)
    return np.asarray(values * np.where(np.arange(values.size).reshape(shape) % 2, 1, -1), np.float32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


OPERATORS = ["Mul (c, k)", "Mul (k, c)", "Add (c, k)", "Add (k, c)", "Sub (c, k)", "Sub (k, c)", "Div (c, k)"]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(), (1,), (8, 1, 1), (1, 8, 1, 1), (1, 1, 1, 1)])
def test_a_convolution_takes_what_varies_over_channels_alone(operator: str, shape: tuple[int, ...]) -> None:
    model = model_of(CONV.format(f"y = {operator}"), w=floats(8, 4, 1, 1), k=floats(*shape, seed=1))
    assert ops(check_pass(fold_affine, model)) == ["Conv"]


@given(st.sampled_from([1, 2, 4]), st.sampled_from(OPERATORS), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_transposed_convolution_counts_channels_over_its_groups(
    group: int, operator: str, biased: bool
) -> None:
    weights = {"w": floats(4, 8 // group, 3, 3)} | ({"b": floats(8)} if biased else {})
    text = f"""g (float[1, 4, 5, 5] x) => (float[1, 8, 7, 7] y) {{
        c = ConvTranspose <group = {group}> (x, w{", b" if biased else ""})  y = {operator} }}"""
    assert ops(check_pass(fold_affine, model_of(text, **weights, k=floats(8, 1, 1, seed=1)))) == [
        "ConvTranspose"
    ]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(), (6,), (1, 6)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_with_its_factors(operator: str, shape: tuple[int, ...], transposed: int) -> None:
    text = f"""g (float[3, 4] x) => (float[3, 6] y) {{
        c = Gemm <alpha = 0.5, beta = 2.0, transB = {transposed}> (x, w, b)  y = {operator} }}"""
    weight = floats(6, 4) if transposed else floats(4, 6)
    model = model_of(text, w=weight, b=floats(1, 6), k=floats(*shape, seed=1))
    assert ops(check_pass(fold_affine, model)) == ["Gemm"]


@pytest.mark.parametrize("rows", ["3, 4", "2, 3, 4"])
def test_a_matmul_takes_factors_and_its_add_takes_the_rest(rows: str) -> None:
    text = f"""g (float[{rows}] x) => (float[{rows[:-1]}6] y) {{
        m = MatMul (x, w)  s = Mul (m, k)  a = Add (s, b)  t = Div (a, k)  c = Sub (t, k)  y = Mul (c, k) }}"""
    model = model_of(text, w=floats(4, 6), b=floats(6), k=floats(6, seed=1))
    assert ops(check_pass(fold_affine, model)) == ["MatMul", "Add"]


def test_a_chain_is_folded_at_once() -> None:
    model = model_of(
        CONV.format("m = Mul (c, k)  a = Add (m, k)  y = Div (a, k)"), w=floats(8, 4, 1, 1), k=floats(8, 1, 1)
    )
    assert ops(check_pass(fold_affine, model)) == ["Conv"]


def test_a_shared_weight_takes_a_shift_but_no_factor() -> None:
    text = """g (float[2, 4, 5, 5] x) => (float[2, 8, 5, 5] y, float[2, 8, 5, 5] z) {
        c = Conv (x, w)  d = Conv (x, w)  y = Add (c, k)  z = Mul (d, k) }"""
    folded = check_pass(fold_affine, model_of(text, w=floats(8, 4, 1, 1), k=floats(8, 1, 1)))
    assert ops(folded) == ["Conv", "Conv", "Mul"]


@pytest.mark.parametrize(
    ("node", "shape", "reason"),
    [
        ("Mul (c, k)", (1, 1, 5, 5), "not one value for each of 8 channels"),
        ("Add (c, k)", (5,), "not one value for each of 8 channels"),
        ("Add (c, k)", (2, 8, 1, 1), "not one value for each of 8 channels"),
        ("Add (c, k)", (1, 1, 1, 1, 1), "may raise the output's rank of 4"),
        ("Div (k, c)", (), "divides by the layer's result"),
        ("Mul (c, c)", (), "one of two operands should be constant"),
    ],
)
def test_what_is_refused_and_why(
    node: str, shape: tuple[int, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rank = max(4, len(shape))
    text = CONV.replace("float[2, 8, 5, 5]", f"float[{', '.join('?' * rank)}]").format(f"y = {node}")
    constants = {"w": floats(8, 4, 1, 1)} | ({"k": floats(*shape)} if "k" in node else {})
    assert len(ops(check_pass(fold_affine, model_of(text, **constants)))) == 2
    assert reason in caplog.text


def test_one_channel_is_not_broadcast_to_many() -> None:
    text = "g (float[1, 4, 5, 5] x) => (float[1, 8, 5, 5] y) { c = Conv (x, w)  y = Add (c, k) }"
    model = model_of(text, w=floats(1, 4, 1, 1), k=floats(8, 1, 1))
    assert ops(check_pass(fold_affine, model)) == ["Conv", "Add"]


def test_a_division_by_zero_stays() -> None:
    text = CONV.format("y = Div (c, k)")
    model = model_of(text, w=floats(8, 4, 1, 1), k=np.zeros((), np.float32))
    assert ops(check_pass(fold_affine, model)) == ["Conv", "Div"]


def test_a_matmul_of_unknown_rank_is_not_raised() -> None:
    text = "g (float[N, 4] x, int64[M] s) => (float y) { r = Reshape (x, s)  m = MatMul (r, w)  c = Mul (m, k)  y = ReduceSum <keepdims = 0> (c) }"
    model = model_of(text, w=floats(4, 6), k=floats(1, 6))
    feeds = {"x": floats(1, 4), "s": np.array([4])}
    assert "Mul" in ops(check_pass(fold_affine, model, feeds))


@pytest.mark.parametrize("extra", ["z = Relu (c)", "z = Identity (c)"])
def test_a_result_that_goes_elsewhere_too_stays(extra: str) -> None:
    text = f"""g (float[2, 4, 5, 5] x) => (float[2, 8, 5, 5] y, float[2, 8, 5, 5] z) {{
        c = Conv (x, w)  y = Mul (c, k)  {extra} }}"""
    model = model_of(text, w=floats(8, 4, 1, 1), k=floats(8, 1, 1))
    assert len(ops(check_pass(fold_affine, model))) == 3


def test_a_result_that_a_subgraph_reads_stays() -> None:
    text = """g (bool p, float[2, 4, 5, 5] x) => (float[2, 8, 5, 5] y, float[2, 8, 5, 5] z) {
        c = Conv (x, w)  y = Mul (c, k)
        z = If (p) <
            then_branch = t () => (float[2, 8, 5, 5] a) { a = Relu (c) },
            else_branch = e () => (float[2, 8, 5, 5] b) { b = Neg (c) } > }"""
    model = model_of(text, w=floats(8, 4, 1, 1), k=floats(8, 1, 1))
    assert ops(check_pass(fold_affine, model)) == ["Conv", "Mul", "If"]


def test_a_zero_shift_adds_no_bias() -> None:
    model = model_of(CONV.format("y = Sub (c, k)"), w=floats(8, 4, 1, 1), k=np.zeros((8, 1, 1), np.float32))
    folded = check_pass(fold_affine, model, decibels=np.inf)
    assert [t.name for t in folded.graph.initializer] == ["w"]
