"""Q/DQ pairs before layers and on residual sums only."""

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.inputs import place_inputs
from onnxmpq.testing import model_of
from onnxmpq.values.placement import Placement

WEIGHT = np.ones((4, 4, 1, 1), np.float32)


def place(body: str, keep: tuple[str, ...] = ()) -> Placement:
    text = f"g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {{ {body} }}"
    graph: gs.Graph = import_graph(model_of(text, v=WEIGHT, w=2 * WEIGHT, k=np.ones((1,), np.float32)))
    layers = discover(graph, {})
    return place_inputs(graph, layers, {layer.name for layer in layers} - set(keep))


def test_layers_read_quantized_values_and_nobody_else() -> None:
    found = place("a = Conv (x, v) b = Relu (a) c = Conv (b, w) y = Sigmoid (c)")
    assert found.tensors == ("x", "b")
    assert found.float_sources == {"x": frozenset({"a"}), "b": frozenset({"c"})}
    assert found.same_scale == ()
    assert found.split_biases == frozenset()


def test_the_residual_of_a_sum_is_quantized_and_the_convolution_beside_it_is_not() -> None:
    found = place("a = Conv (x, v) b = Relu (a) c = Conv (b, w) s = Add (c, x) y = Relu (s)")
    assert found.tensors == ("x", "b")
    assert found.float_sources == {"x": frozenset({"a", "s"}), "b": frozenset({"c"})}


def test_of_two_convolutions_in_a_sum_one_stays_fused() -> None:
    found = place("a = Conv (x, v) c = Conv (x, w) s = Add (a, c) y = Relu (s)")
    assert found.float_sources == {"x": frozenset({"a", "c"}), "c": frozenset({"s"})}
    assert found.spare == ("a",)


def test_what_fewer_integer_layers_may_quantize_is_known_before() -> None:
    body = "a = Conv (x, v) c = Conv (x, w) s = Add (a, c) y = Relu (s)"
    whole = place(body)
    for floats in (("a",), ("c",), ("a", "c")):
        assert {*place(body, keep=floats).tensors} <= {*whole.tensors, *whole.spare}
    assert place(body, keep=("a",)).float_sources == {"x": frozenset({"c"}), "a": frozenset({"s"})}
    assert place("a = Conv (x, v) s = Add (a, x) y = Relu (s)").spare == ()


def test_sums_of_other_things_stay_in_float() -> None:
    assert place("a = Conv (x, v) b = Relu (a) s = Add (b, x) y = Conv (s, w)").tensors == ("x", "s")
    assert place("a = Conv (x, v) s = Add (a, k) y = Conv (s, w)").tensors == ("x", "s")


def test_a_layer_that_stays_float_asks_for_nothing() -> None:
    found = place("a = Conv (x, v) b = Relu (a) y = Conv (b, w)", keep=("y",))
    assert found.tensors == ("x",)
    assert found.integer_layers == ("a",)
    assert found.float_layers == {"y": "quantized activations were not asked for"}
