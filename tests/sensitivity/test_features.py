import numpy as np
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.sensitivity.features import layer_features
from onnxmpq.testing import classifier, labelled, model_of, probe_of


def test_features_lie_behind_activations_and_joins() -> None:
    probe = probe_of(classifier(), labelled(classifier()))
    assert list(layer_features(probe, "m").values()) == ["b", "e", "r", "y"]


def test_layers_joined_by_an_addition_share_their_feature() -> None:
    model = model_of(
        "g (float[N, 3] x) => (float[N, 3] y) { a = MatMul (x, v)  b = MatMul (x, w)  c = Add (a, b)  y = Relu (c) }",
        v=np.eye(3, dtype=np.float32),
        w=np.ones((3, 3), np.float32),
    )
    probe = probe_of(model, {"x": np.ones((4, 3), np.float32)})
    assert layer_features(probe, "m") == {"a": "y", "b": "y"}


def test_the_order_is_that_of_the_features_and_not_of_the_layers() -> None:
    model = model_of(
        """g (float[N, 3] x) => (float[N, 3] y) {
            s = MatMul (x, shortcut)  a = MatMul (x, v)  r = Relu (a)  b = MatMul (r, w)  c = Add (b, s)  y = Relu (c)
        }""",
        shortcut=np.eye(3, dtype=np.float32),
        v=2 * np.eye(3, dtype=np.float32),
        w=np.ones((3, 3), np.float32),
    )
    probe = probe_of(model, {"x": np.ones((4, 3), np.float32)})
    assert [layer.name for layer in probe.layers] == ["s", "a", "b"]
    assert list(layer_features(probe, "m").items()) == [("a", "r"), ("s", "y"), ("b", "y")]


def test_a_gate_of_the_layers_own_output_counts_as_its_activation() -> None:
    rng = np.random.default_rng(0)
    text = """g (float[N, 2, 6, 6] x) => (float[N, 4, 4, 4] y, float[N, 4, 2, 2] z) {
        a = Conv (x, w1)  s = Sigmoid (a)  b = Mul (s, a)  y = Identity (b)
        c = Conv (b, w2)  t = Sigmoid (c)  d = Mul (t, c)  z = Add (d, t)
    }"""
    shapes = {"w1": (4, 2, 3, 3), "w2": (4, 4, 3, 3)}
    model = model_of(text, **{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    probe = probe_of(model, {"x": rng.standard_normal((2, 2, 6, 6)).astype(np.float32)})
    assert set(layer_features(probe, "ompq").values()) == {"y", "c"}  # the second gate is read elsewhere, too


def test_a_model_without_features() -> None:
    model = model_of(
        "g (float[N, 1, 3] x, bool c) => (float[N, 1, 3] y) { y = If (c) < then_branch = t () => (float[N, 1, 3] u) { u = MatMul (x, w) },"
        " else_branch = e () => (float[N, 1, 3] u) { u = Identity (x) }> }",
        w=np.eye(3, dtype=np.float32),
    )
    probe = probe_of(model, {"x": np.ones((4, 1, 3), np.float32), "c": np.ones(4, bool)})
    with pytest.raises(OptionError, match="method m compares"):
        layer_features(probe, "m")
