from onnxmpq.activations.by_time import slower
from onnxmpq.timing.layer_times import LayerTimes

INTEGER = frozenset({"a", "b"})


def times(a: tuple[float, float], b: tuple[float, float]) -> LayerTimes:
    """Of two layers, in integers and in float."""
    return LayerTimes({"a": a[0], "b": b[0]}, {"a": a[1], "b": b[1]}, 2.0, a[0] + b[0])


def test_a_layer_that_is_clearly_faster_in_float_is_found() -> None:
    assert slower(times((1.0, 0.5), (1.0, 2.0)), INTEGER) == {"a"}


def test_what_may_be_chance_is_left_alone() -> None:
    assert not slower(times((1.0, 0.9), (1.0, 2.0)), INTEGER)


def test_what_is_not_worth_the_change_is_left_alone() -> None:
    assert not slower(times((0.01, 0.001), (1.0, 2.0)), INTEGER)


def test_layers_in_float_are_not_looked_at() -> None:
    assert slower(times((1.0, 0.5), (1.0, 0.5)), frozenset({"b"})) == {"b"}
