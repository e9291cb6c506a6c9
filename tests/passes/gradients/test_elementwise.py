from typing import Any

import numpy as np
import pytest
from central_differences import check_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.testing import model_of, random_feeds, run

HEADER = '<ir_version: 10, opset_import: ["": {}]> '
DOUBLE = [
    "Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Reciprocal", "Identity", "Dropout",
]  # fmt: skip
SINGLE = [
    "LeakyRelu <alpha = 0.3>", "LeakyRelu", "Elu", "Elu <alpha = 1.7>", "HardSigmoid", "HardSigmoid <alpha = 0.7, beta = 0.2>",
    "HardSwish", "Erf", "Softplus", "Gelu", 'Gelu <approximate = "tanh">',
]  # fmt: skip


def feeds(shape: tuple[int, ...], dtype: Any, low: float = -2.0) -> dict[str, Any]:
    """Distinct values, none of them near 0."""
    values = np.linspace(low, 2.0, int(np.prod(shape)) * 2)[1::2]
    return {"x": np.random.default_rng(0).permutation(values).reshape(shape).astype(dtype)}


@pytest.mark.parametrize("op", DOUBLE)
def test_functions_of_one_value(op: str) -> None:
    model = model_of(f"g (double[3, 8] x) => (double[3, 8] y) {{ y = {op} (x) }}")
    check_gradients(model, ["x"], feeds((3, 8), np.float64), step=1e-6, tolerance=1e-7)


@pytest.mark.parametrize("op", ["Sqrt", "Log"])
def test_functions_of_positive_values(op: str) -> None:
    model = model_of(f"g (double[3, 8] x) => (double[3, 8] y) {{ y = {op} (x) }}")
    check_gradients(model, ["x"], feeds((3, 8), np.float64, 0.1), step=1e-6, tolerance=1e-7)


@pytest.mark.parametrize("op", SINGLE)
def test_activations(op: str) -> None:
    text = f"g (float[3, 16] x) => (float[3, 16] y) {{ a = Mul (x, c) y = {op} (a) }}"
    model = model_of(HEADER.format(20) + text, c=np.array(2.3, np.float32))
    check_gradients(model, ["x"], feeds((3, 16), np.float32), step=2**-9, tolerance=2e-3)


def test_clip() -> None:
    bounds = {"low": np.array(-1.03), "high": np.array(0.77)}
    for operands in ("x, low, high", "x, low", 'x, "", high', "x"):
        model = model_of(
            f"g (double[24] x) => (double[24] y) {{ y = Clip ({operands}) }}".replace('""', ""), **bounds
        )
        check_gradients(model, ["x"], feeds((24,), np.float64), step=1e-6, tolerance=1e-7)


def test_what_lies_at_a_bound_of_a_clip_is_within() -> None:
    model = model_of(
        "g (float[5] x) => (float loss) { y = Clip (x, low, high) loss = ReduceSum <keepdims = 0> (y) }",
        low=np.array(-1, np.float32), high=np.array(2, np.float32),
    )  # fmt: skip
    graph = import_graph(model)
    EmitGradients("loss", ("x",), {})(graph)
    found = run(export_model(graph, model), {"x": np.array([-1.5, -1, 0, 2, 2.5], np.float32)})
    assert found["x/gradient"].tolist() == [0, 1, 1, 1, 0]


def test_bounds_of_a_clip_have_gradients() -> None:
    model = model_of(
        "g (double[24] x, double low, double high) => (double[24] y) { y = Clip (x, low, high) }"
    )
    values = {**feeds((24,), np.float64), "low": np.array(-1.03), "high": np.array(0.77)}
    check_gradients(model, ["x", "low", "high"], values, step=1e-6, tolerance=1e-6)


def test_prelu() -> None:
    for shape in ([3, 1, 1], [1], [2, 3, 2, 2]):
        model = model_of(
            f"g (float[2, 3, 2, 2] x, float{shape} s) => (float[2, 3, 2, 2] y) {{ y = PRelu (x, s) }}"
        )
        values = random_feeds(model) | feeds((2, 3, 2, 2), np.float32)
        check_gradients(model, ["x", "s"], values, step=2**-6)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two shapes that broadcast."""
    full = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    pair = []
    for _ in range(2):
        own = [draw(st.sampled_from([1, size])) for size in full]
        pair.append(own[draw(st.integers(0, len(own) - 1)) :])
    return pair[0], pair[1]


@settings(max_examples=60, deadline=None)
@given(op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Sum"]), pair=shapes(), static=st.booleans())
def test_arithmetic_broadcasts(op: str, pair: Any, static: bool) -> None:
    whole = ["?"] * max(len(pair[0]), len(pair[1]))
    model = model_of(
        f"g (double{pair[0]} a, double{pair[1]} b) => (double[{', '.join(whole)}] y) "
        f"{{ c = Exp (b) d = Neg (a) y = {op} (d, c) }}"
    )
    check_gradients(model, ["a", "b"], step=1e-6, tolerance=1e-6, static=static)


def test_a_power_of_zero_has_no_slope() -> None:
    for exponent in ("c", "d"):
        text = f"g (float[4] x) => (float[4] y) {{ d = Identity (c) y = Pow (x, {exponent}) }}"
        model = model_of(text, c=np.array([0, 0, 1, 2], np.float32))
        check_gradients(model, ["x"], {"x": np.array([0, 3, 0, 0], np.float32)})


def test_power() -> None:
    model = model_of("g (double[2, 4] x, double[4] p) => (double[2, 4] y) { y = Pow (x, p) }")
    values = {**feeds((2, 4), np.float64, 0.2), "p": np.array([0.5, 2.0, -1.5, 3.0])}
    check_gradients(model, ["x", "p"], values, step=1e-6, tolerance=1e-6)
    square = model_of("g (double[8] x) => (double[8] y) { y = Pow (x, c) }", c=np.array(2.0))
    check_gradients(
        square, ["x"], feeds((8,), np.float64), step=1e-6, tolerance=1e-6
    )  # of negative values too


@pytest.mark.parametrize("constant", [True, False])
def test_integer_exponents(constant: bool) -> None:
    exponent = "c" if constant else "d"
    text = f"g (float[8] x) => (float[8] y) {{ d = Identity (c) y = Pow (x, {exponent}) }}"
    model = model_of(text, c=np.array(3))
    check_gradients(model, ["x"], feeds((8,), np.float32), step=2**-8, tolerance=2e-3)


def test_where() -> None:
    model = model_of("""
        g (bool[2, 3] c, double[2, 3] x, double[3] z) => (double[2, 3] y) { y = Where (c, x, z) }
    """)
    check_gradients(model, ["x", "z"], step=0.5)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_of_equal_operands_one_is_chosen(op: str) -> None:
    model = model_of(f"g (double[4] x) => (double[4] y) {{ a = Identity (x) y = {op} (x, a, x) }}")
    check_gradients(model, ["x"], feeds((4,), np.float64), step=2**-8)


def test_casts_between_floats_keep_the_type_of_each_side() -> None:
    model = model_of("""
        g (float[6] x) => (double[6] y) { a = Cast <to = 11> (x) b = Mul (a, a) c = Cast <to = 1> (b)
            d = Relu (c) y = Cast <to = 11> (d) }
    """)
    check_gradients(model, ["x"], feeds((6,), np.float32), step=2**-8, tolerance=1e-3)


def test_a_cast_to_integers_is_a_step() -> None:
    model = model_of("""
        g (float[6] x) => (float[6] y) { a = Cast <to = 7> (x) b = Cast <to = 1> (a) y = Mul (b, x) }
    """)
    values = {"x": np.array([0.3, 1.4, 2.4, -1.7, 3.3, 5.2], np.float32)}
    check_gradients(model, ["x"], values, step=2**-8, tolerance=2e-3)


def test_round_is_passed_straight_through() -> None:
    model = model_of("g (float[4] x) => (float loss) { y = Round (x) loss = ReduceSum <keepdims = 0> (y) }")
    graph = import_graph(model)
    EmitGradients("loss", ("x",), {})(graph)
    found = run(export_model(graph, model), {"x": np.array([-1.3, 0.4, 0.6, 7.9], np.float32)})
    assert found["x/gradient"].tolist() == [1, 1, 1, 1]


def test_dropout_that_drops_is_refused() -> None:
    text = "g (float[6] x, bool t) => (float[6] y, float loss) { y = Dropout (x, r, t) loss = ReduceSum <keepdims = 0> (y) }"
    for training in (True, None):  # None: known in the run only
        model = model_of(
            text.replace(", t)", ", u)") if training else text, r=np.array(0.5, np.float32), u=np.array(True)
        )
        with pytest.raises(ModelError, match=r"Dropout 'y', which 'x' needs, cannot be emitted"):
            EmitGradients("loss", ("x",), {})(import_graph(model))


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_largest_and_smallest(op: str) -> None:
    model = model_of(
        f"g (double[2, 3] x, double[3] z, double u) => (double[2, 3] y) {{ y = {op} (x, z, u) }}"
    )
    check_gradients(model, ["x", "z", "u"], step=1e-6, tolerance=1e-6)
