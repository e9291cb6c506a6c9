import numpy as np

from onnxmpq.normalize.other_weights import other_weights
from onnxmpq.testing import model_of

RNG = np.random.default_rng(0)


def test_what_no_layer_holds_is_named_with_its_bytes_and_reason() -> None:
    model = model_of(
        """g (float[500, 32] x) => (float[500, 8] y) { e = Mul (table, x) y = MatMul (e, w) }""",
        table=RNG.standard_normal((500, 32)).astype(np.float32),
        w=RNG.standard_normal((32, 8)).astype(np.float32),
    )
    (found,) = other_weights(model, {"w"})
    assert (found.name, found.op, found.stored_bytes) == ("table", "Mul", 500 * 32 * 4)
    assert found.reason == "Mul is not among the operators whose weights are quantized"
    assert {weight.name for weight in other_weights(model, ())} == {"table", "w"}


def test_a_table_that_goes_to_the_outputs_says_so() -> None:
    text = "g (int64[N, 4] i) => (float[N, 4, 32] y) { y = Gather (anchors, i) }"
    model = model_of(text, anchors=RNG.standard_normal((500, 32)).astype(np.float32))
    (found,) = other_weights(model, ())
    assert found.reason == "nothing is computed with what Gather gives of it, or it is a bias or small"


def test_constants_of_control_flow_and_of_constant_nodes_count() -> None:
    model = model_of(
        """g (float[N, 4] x, bool c) => (float[N, 4] y) {
            k = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
            s = Add (x, k)
            y = If (c) <
                then_branch = t () => (a) { a = Mul (s, inner) },
                else_branch = e () => (b) { b = Identity (s) }
            >
        }""",
        inner=RNG.standard_normal((1, 4)).astype(np.float32),
    )
    found = {weight.name: weight.op for weight in other_weights(model, ())}
    assert found == {"k": "Add", "inner": "Mul"}


def test_small_ones_and_integers_are_not_worth_a_line() -> None:
    model = model_of(
        "g (float[N, 400] x) => (float[N, 400] y) { a = Mul (x, w) r = Reshape (a, s) y = Add (r, small) }",
        w=RNG.standard_normal(400).astype(np.float32),
        s=np.array([-1, 400]),
        small=np.ones(1, np.float32),
    )
    assert [weight.name for weight in other_weights(model, ())] == ["w"]
