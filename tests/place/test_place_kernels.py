import re
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.kernels import place_activations, place_whole
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.placement import Placement

SHAPES = {
    "w": (4, 4, 1, 1), "u": (4, 4, 1, 1), "v": (4, 4, 1, 1), "n": (5, 5), "b4": (4,), "b5": (5,),
    "m144": (144, 5), "square": (6, 6), "one5": (1, 5),
    "zero": (), "six": (), "three": (), "each": (4, 1, 1),
}  # fmt: skip
VALUES = {"zero": 0.0, "six": 6.0, "three": 3.0}


def parse(body: str, result: str = "1, 4, 6, 6") -> gs.Graph:
    """`x` goes in and `y` comes out; the weights and constants named in the body are at hand."""
    used = [name for name in SHAPES if re.search(rf"\b{name}\b", body)]
    constants = {name: np.full(SHAPES[name], VALUES.get(name, 1.0), np.float32) for name in used}
    return gs.import_onnx(
        model_of(f"g (float[1, 4, 6, 6] x) => (float[{result}] y) {{ {body} }}", **constants)
    )


def place(body: str, result: str = "1, 4, 6, 6", *, keep: tuple[str, ...] = ()) -> Placement:
    """Everything integer but the layers named in `keep`."""
    graph = parse(body, result)
    layers = discover(graph, {})
    return place_activations(graph, layers, {layer.name for layer in layers} - set(keep))


def test_a_conv_is_quantized_on_both_sides() -> None:
    placement = place("y = Conv (x, w)")
    assert placement.tensors == ("x", "y")
    assert placement.float_sources == {"x": {"y"}}
    assert placement.integer_layers == ("y",)
    assert placement.float_layers == placement.float_ops == {}
    assert placement.same_scale == ()


@pytest.mark.parametrize("clamp", ["Relu (a)", "Clip (a, zero, six)", "Clip (a, zero)"])
def test_a_clamp_belongs_to_the_kernel_before_it(clamp: str) -> None:
    placement = place(f"a = Conv (x, w) y = {clamp}")
    assert placement.tensors == ("x", "y")
    assert placement.float_ops == {}


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, w) r = Relu (a) y = Add (a, r)",  # read twice
        "a = Conv (x, w) r = Clip (a, three, six) y = Conv (r, u)",  # zero is not representable
    ],
)
def test_a_clamp_that_the_kernel_cannot_do_stays_in_float(body: str) -> None:
    placement = place(body)
    assert "a" in placement.tensors
    assert "r" in placement.float_ops


def test_a_residual_block_is_integer_throughout() -> None:
    placement = place("""
        a = Conv (x, w)  p = Relu (a)
        b = Conv (p, u)
        s = Add (b, p)   q = Relu (s)
        y = Conv (q, v)
    """)
    assert placement.tensors == ("x", "p", "b", "q", "y")
    assert placement.float_ops == {}


def test_silu_needs_its_inner_tensor() -> None:
    placement = place("a = Conv (x, w) s = Sigmoid (a) p = Mul (a, s) y = Conv (p, u)")
    assert placement.tensors == ("x", "a", "s", "p", "y")


@pytest.mark.parametrize(
    ("op", "name"), [("Softplus (a)", "Softplus"), ("PRelu (a, each)", "PRelu"), ("Tanh (a)", "Tanh")]
)
def test_an_op_without_an_integer_kernel_is_listed_and_its_result_quantized_for_the_next(
    op: str, name: str
) -> None:
    placement = place(f"a = Conv (x, w) p = {op} y = Conv (p, u)")
    assert placement.tensors == ("x", "a", "p", "y")
    assert placement.float_sources == {"x": {"a"}, "p": {"y"}}
    assert name in placement.float_ops["p"]


def test_nothing_is_quantized_between_float_operators() -> None:
    placement = place("a = Conv (x, w) p = Tanh (a) q = MaxPool <kernel_shape = [1, 1]> (p) y = Add (q, p)")
    assert placement.tensors == ("x", "a")


def test_float_readers_of_a_float_result_keep_it() -> None:
    placement = place("a = Conv (x, w) p = Tanh (a) b = Conv (p, u) q = Neg (p) y = Sub (b, q)")
    assert placement.float_sources["p"] == {"b"}


def test_an_operator_with_one_quantized_input_has_the_other_quantized() -> None:
    placement = place("a = Conv (x, w) p = Tanh (a) s = Add (a, p) y = Conv (s, u)")
    assert placement.tensors == ("x", "a", "p", "s", "y")


def test_a_sum_behind_kernels_is_integer_but_not_as_a_graph_output() -> None:
    assert "s" in place("a = Conv (x, w) b = Conv (x, u) s = Add (a, b) y = Tanh (s)").tensors
    assert "y" not in place("a = Conv (x, w) b = Conv (x, u) y = Add (a, b)").tensors


def test_a_global_pool_is_integer_before_a_float_tail() -> None:
    placement = place("a = Conv (x, w) p = GlobalAveragePool (a) y = Flatten (p)", "1, 4")
    assert placement.tensors == ("x", "a", "p")
    assert placement.float_ops == {"y": "its result is read in float"}


def test_layers_that_were_not_asked_for_stay_in_float() -> None:
    placement = place("a = Conv (x, w) y = Conv (a, u)", keep=("y",))
    assert placement.tensors == ("x", "a")
    assert placement.float_layers == {"y": "quantized activations were not asked for"}
    assert place("y = Conv (x, w)", keep=("y",)).tensors == ()


def test_scalars_are_quantized_and_vectors_are_not() -> None:
    scalar = place("a = Conv (x, w) p = Mul (a, three) y = Conv (p, u)")
    assert scalar.tensors == ("x", "a", "three", "p", "y")
    assert scalar.float_sources["three"] == {"p"}
    vector = place("a = Conv (x, w) p = Mul (a, each) y = Conv (p, u)")
    assert "each" not in vector.tensors
    assert "too many for one scale" in vector.float_ops["p"]


def test_operators_that_move_values_share_a_scale() -> None:
    placement = place("""
        a = Conv (x, w)
        p = MaxPool <kernel_shape = [1, 1]> (a)
        q = Transpose <perm = [0, 1, 3, 2]> (p)
        y = Conv (q, u)
    """)
    assert placement.same_scale == (("a", "p", "q"),)
    own = {name: ActivationRange(float(i), 0) for i, name in enumerate(placement.tensors)}
    leaders = {"x": "x", "a": "a", "p": "a", "q": "a", "y": "y"}
    assert placement.shared(own) == {name: own[leader] for name, leader in leaders.items()}


def test_a_clamp_behind_a_pool_leads_what_comes_before_it() -> None:
    placement = place("a = Conv (x, w) p = MaxPool <kernel_shape = [1, 1]> (a) r = Relu (p) y = Conv (r, u)")
    assert placement.tensors == ("x", "a", "r", "y")
    assert placement.same_scale == (("r", "a"),)


def test_a_clamp_behind_a_pool_stays_where_others_read_the_values() -> None:
    placement = place("""
        a = Conv (x, w)
        p = MaxPool <kernel_shape = [1, 1]> (a)  r = Relu (p)
        b = Conv (r, u)  c = Conv (a, v)
        y = Add (b, c)
    """)
    assert placement.same_scale == ()
    assert placement.float_ops.keys() == {"p", "r", "y"}


def test_what_only_a_concat_reads_takes_its_scale() -> None:
    placement = place("""
        a = Conv (x, w)  p = Relu (a)
        b = Conv (x, u)  q = Relu (b)
        s = Concat <axis = 2> (p, q)
        y = Conv (s, v)
    """)
    assert placement.same_scale == (("s", "p", "q"),)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = Relu (a) q = Neg (b)", ("s", "q")),  # the Relu's kernel clamps at zero only
        ("p = Relu (a) q = Clip (b, zero, six)", ("s", "p")),  # the Clip's at six as well
        ("p = Clip (a, zero, six) q = Clip (b, zero, six)", ("s", "p", "q")),
        ("p = Relu (a) q = Conv (p, v)", ("s", "q")),  # p has another reader
    ],
)
def test_no_clamp_is_put_on_a_wider_scale_than_its_own(body: str, expected: tuple[str, ...]) -> None:
    tail = "s = Concat <axis = 2> (p, q) y = Conv (s, v)"
    assert place(f"a = Conv (x, w) b = Conv (x, u) {body} {tail}").same_scale == (expected,)


def test_a_split_keeps_its_source_off_the_concat() -> None:
    placement = place("""
        a = Conv (x, w)
        p, q = Split <axis = 2> (a)
        b = Conv (q, u)
        s = Concat <axis = 2> (p, b)
        y = Conv (s, v)
    """)
    assert placement.same_scale == (("a", "p", "q"), ("s", "b"))


def test_a_gemm_gives_float_to_a_graph_output_without_its_bias() -> None:
    placement = place("f = Flatten (x) y = Gemm (f, m144, b5)", "1, 5")
    assert placement.tensors == ("f",)
    assert placement.split_biases == {"m144"}


def test_a_gemm_keeps_a_plain_bias_between_kernels() -> None:
    placement = place("f = Flatten (x) a = Gemm (f, m144, b5) r = Relu (a) y = Gemm (r, n)", "1, 5")
    assert placement.tensors == ("f", "r")
    assert placement.split_biases == frozenset()


@pytest.mark.parametrize("gemm", ["Gemm <beta = 2.0> (f, m144, b5)", "Gemm (f, m144, one5)"])
def test_a_gemm_loses_a_bias_that_the_runtime_does_not_quantize(gemm: str) -> None:
    placement = place(f"f = Flatten (x) a = {gemm} y = Gemm (a, n)", "1, 5")
    assert placement.split_biases == {"m144"}


def test_a_matmul_with_a_bias_is_one_kernel() -> None:
    placement = place("f = Flatten (x) a = MatMul (f, m144) y = Add (a, b5)", "1, 5")
    assert placement.tensors == ("f", "y")
    assert place("f = Flatten (x) y = MatMul (f, m144)", "1, 5").tensors == ("f",)


def test_transposed_convolutions_and_left_weights_say_why() -> None:
    placement = place("y = ConvTranspose (x, w)")
    assert "ConvTranspose" in placement.float_layers["y"]
    assert placement.tensors == ()
    left = place("y = MatMul (square, x)")
    assert "left operand" in left.float_layers["y"]


def test_a_computed_bias_says_why() -> None:
    placement = place("b = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x) y = Conv (x, w, b)")
    assert placement.float_layers == {"y": "its bias is computed by other nodes"}


def test_layers_in_subgraphs_say_why() -> None:
    model = model_of(
        """g (bool c, float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv (x, w)
            y = If (c) <
                then_branch = t () => (float[1, 4, 6, 6] p) { p = Conv (a, u) },
                else_branch = e () => (float[1, 4, 6, 6] q) { q = Relu (a) }
            >
        }""",
        w=np.ones((4, 4, 1, 1), np.float32),
        u=np.ones((4, 4, 1, 1), np.float32),
    )
    graph = gs.import_onnx(model)
    placement = place_activations(graph, discover(graph, {}), {"a", "p"})
    assert placement.integer_layers == ("a",)
    assert placement.float_layers == {"p": "it lies in a control-flow subgraph"}
    assert placement.tensors == ("x", "a")


def test_the_graph_is_only_read() -> None:
    graph = parse("a = Conv (x, w) r = Relu (a) s = Concat <axis = 2> (r, x) y = Conv (s, u)")
    before = onnx.ModelProto()
    before.CopyFrom(gs.export_onnx(graph))
    place_activations(graph, discover(graph, {}), {"a", "y"})
    assert gs.export_onnx(graph) == before


DIGITS = onnx.load(Path(__file__).parents[2] / "models" / "digits.onnx")
LAYERS = discover(gs.import_onnx(DIGITS), {})


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from([layer.name for layer in LAYERS])))
def test_fewer_integer_layers_quantize_no_other_tensors(integer: set[str]) -> None:
    """So the ranges that were calibrated for all layers do for every plan."""
    everything = place_activations(gs.import_onnx(DIGITS), LAYERS, {layer.name for layer in LAYERS})
    some = place_activations(gs.import_onnx(DIGITS), LAYERS, integer)
    assert set(some.tensors) <= set(everything.tensors)
    assert set(some.integer_layers) == integer & set(everything.integer_layers)


@pytest.mark.parametrize(
    ("body", "tensors"),
    [
        ("a = Conv (x, w) n = Slice (a, none, none, none) c = Concat <axis = 0> (a, n) y = Conv (c, u)", "x a c y"),
        ("a = Conv (x, w) n = Slice (a, none, none, none) r = Relu (n) c = Concat <axis = 0> (a, r) y = Conv (c, u)", "x a c y"),
        ("a = Conv (x, w) n = Slice (a, none, none, none) e = Conv (n, v) c = Concat <axis = 0> (a, e) y = Conv (c, u)", "x a c y"),
    ],
)  # fmt: skip
def test_tensors_without_values_stay_in_float(body: str, tensors: str) -> None:
    constants = {name: np.full(SHAPES[name], 1.0, np.float32) for name in "wuv" if f", {name})" in body}
    text = f"g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {{ {body} }}"
    graph = import_graph(model_of(text, none=np.zeros(1, np.int64), **constants))
    layers = discover(graph, {})
    placement = place_activations(graph, layers, {layer.name for layer in layers})
    assert placement.tensors == tuple(tensors.split())
    assert "e" not in placement.integer_layers


def test_an_input_that_is_left_out_as_a_tensor_without_values_changes_nothing() -> None:
    body = 'a = Conv (x, w) r = Resize <mode = "nearest"> (a, left_out, left_out, sizes) y = Conv (r, u)'
    text = f"g (float[1, 4, 6, 6] x) => (float[1, 4, 8, 8] y) {{ {body} }}"
    constants = {name: np.ones(SHAPES[name], np.float32) for name in "wu"}
    sizes = {"left_out": np.zeros(0, np.float32), "sizes": np.array([1, 4, 8, 8])}
    graph = import_graph(model_of(text, **constants, **sizes))
    layers = discover(graph, {})
    assert place_activations(graph, layers, {"a", "y"}).tensors == ("x", "a", "r", "y")


TOKENS = "g (float[1, 6, 4] x) => (float[1, 6, 4] y) {{ {} }}"
TOKEN_SHAPES = {"m1": (4, 4), "m2": (4, 4), "v1": (4,), "v2": (4,), "one": (), "half": ()}


def place_tokens(body: str) -> Placement:
    used = [name for name in TOKEN_SHAPES if re.search(rf"\b{name}\b", body)]
    constants = {n: np.full(TOKEN_SHAPES[n], 0.5 if n == "half" else 1.0, np.float32) for n in used}
    graph = import_graph(model_of(TOKENS.format(body), **constants))
    layers = discover(graph, {})
    return place_activations(graph, layers, {layer.name for layer in layers})


def test_a_biased_product_of_tokens_gives_float() -> None:
    placement = place_tokens(
        "m = MatMul (x, m1) a = Add (m, v1) t = Tanh (a) n = MatMul (t, m2) y = Add (v2, n)"
    )
    assert placement.tensors == ("x", "t")
    assert placement.integer_layers == ("m", "n")


def test_gelu_between_biased_products_is_float() -> None:
    body = """m = MatMul (x, m1) a = Add (m, v1) e = Erf (a) f = Add (e, one) p = Mul (a, f) h = Mul (p, half)
        n = MatMul (h, m2) y = Add (n, v2)"""
    assert place_tokens(body).tensors == ("x", "h")


def test_one_pair_serves_all_products_of_a_tensor() -> None:
    placement = place_tokens("t = Tanh (x) m = MatMul (t, m1) n = MatMul (t, m2) y = Sub (m, n)")
    assert placement.tensors == ("t",)
    assert placement.float_sources == {"t": {"m", "n"}}


@pytest.mark.parametrize(
    "norm",
    [
        "y = LayerNormalization <axis = -1> (s, five)", "y = Softmax (s)", "m = ReduceMean <axes = [-1]> (s) y = Sub (s, m)",
        "r = Reshape (s, shape) q = Softmax (r) y = Reshape (q, shape)",
    ],
)  # fmt: skip
def test_a_sum_that_is_normalized_is_float(norm: str) -> None:
    body = f"a = Conv (x, w) b = Conv (x, u) s = Add (a, b) {norm}"
    constants = {"w": np.ones((4, 4, 1, 1)), "u": np.ones((4, 4, 1, 1)), "five": np.ones(6)}
    used = {n: v.astype(np.float32) for n, v in constants.items() if f", {n})" in body}
    shape = {"shape": np.array([1, 4, 6, 6])} if "shape" in body else {}
    text = f"g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {{ {body} }}"
    graph = import_graph(model_of(text, **used, **shape))
    layers = discover(graph, {})
    placement = place_activations(graph, layers, {layer.name for layer in layers})
    assert placement.tensors == ("x", "a", "b")


def test_a_sum_that_convolutions_read_is_integer_whatever_else_does() -> None:
    body = "a = Conv (x, w) b = Conv (x, u) s = Add (a, b) c = Conv (s, w) n = Softmax (s) y = Sub (c, n)"
    assert "s" in place(body).tensors


def test_the_square_of_codes_is_float() -> None:
    assert "p" not in place("a = Conv (x, w) p = Mul (a, a) y = Exp (p)").tensors


def test_hard_swish_is_integer() -> None:
    body = "a = Conv (x, w) h = HardSigmoid (a) p = Mul (a, h) y = Conv (p, u)"
    assert place(body).tensors == ("x", "a", "h", "p", "y")


@pytest.mark.parametrize("factor", ["s = Softplus (a) f = Tanh (s)", "s = Erf (a) f = Add (s, three)"])
def test_a_product_with_a_float_function_of_itself_is_float_and_says_so(factor: str) -> None:
    placement = place(f"a = Conv (x, w) {factor} p = Mul (a, f) y = Conv (p, u)")
    assert placement.tensors == ("x", "a", "p", "y")
    assert placement.float_ops["p"] == "it completes an activation that is computed in float"


def test_a_last_pool_behind_what_is_read_twice_is_float_and_says_so() -> None:
    swish = "a = Conv (x, w) s = Sigmoid (a) p = Mul (a, s)"
    tail = "g = GlobalAveragePool (q) y = Conv (g, v)"
    pool = "MaxPool <kernel_shape = [1, 1]>"
    body = f"{swish} c = Conv (p, u) d = Conv (p, w) z = Sub (c, d) q = {pool} (p) {tail}"
    assert "channels first" in place(body, "1, 4, 1, 1").float_ops["q"]
    assert "q" in place(f"{swish} q = {pool} (p) y = Conv (q, u)").tensors
    assert "q" in place(f"a = Conv (x, w) q = {pool} (a) {tail}", "1, 4, 1, 1").tensors


def whole(body: str, result: str = "1, 4, 6, 6", *, keep: tuple[str, ...] = ()) -> Placement:
    graph = parse(body, result)
    layers = discover(graph, {})
    return place_whole(graph, layers, {layer.name for layer in layers} - set(keep))


def test_of_a_whole_graph_results_are_quantized_that_are_read_in_float() -> None:
    body = "a = GlobalAveragePool (x) b = Flatten (a) y = Gemm (b, n, b5)"
    assert "y" not in place(body, "1, 5").tensors
    found = whole(body, "1, 5")
    assert found.tensors == ("x", "a", "b", "y")
    assert found.split_biases == frozenset()  # a layer that gives codes takes its bias in


def test_of_a_whole_graph_sums_at_its_end_are_quantized() -> None:
    body = "a = Conv (x, w) b = Sigmoid (a) c = Mul (a, b) y = Add (c, a)"
    assert whole(body).tensors == ("x", "a", "b", "c", "y")


def test_a_whole_graph_without_integer_layers_stays_in_float() -> None:
    assert whole("a = Conv (x, w) y = Add (a, x)", keep=("a",)).tensors == ()


@pytest.mark.parametrize("kept", ["a", "c", "e"])
def test_fewer_integer_layers_of_a_whole_graph_quantize_nothing_else(kept: str) -> None:
    body = (
        "a = Conv (x, w) b = Relu (a) c = Conv (b, u) d = Add (c, b) e = MatMul (d, square) y = Add (e, six)"
    )
    assert {*whole(body, keep=(kept,)).tensors} <= {*whole(body).tensors}
