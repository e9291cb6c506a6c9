import onnx

from onnxmpq.passes.expose.tap_tensors import TapTensors, tap_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of("""
g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y) {
    a = Add (x, z)
    b = Relu (a)
    y = Mul (b, x)
}
""")


def outputs(model: onnx.ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]


def test_reductions_of_inputs_inner_tensors_and_outputs() -> None:
    rewrite = TapTensors(("x", "a", "y"), ("ReduceMin", "ReduceMax"))
    tapped = check_pass(rewrite, MODEL, kind="exposing")
    feeds = random_feeds(MODEL)
    found = run(tapped, feeds)
    expected = {"x": feeds["x"], "a": feeds["x"] + feeds["z"], "y": found["y"]}
    for name, values in expected.items():
        assert found[tap_name(name, "ReduceMin")] == values.min()
        assert found[tap_name(name, "ReduceMax")] == values.max()


def test_unknown_tensors_are_left_out() -> None:
    assert outputs(check_pass(TapTensors(("nowhere",), ("ReduceMin",)), MODEL, kind="exposing")) == ["y"]


def test_a_second_set_of_taps_adds_to_the_first() -> None:
    first = check_pass(TapTensors(("a",), ("ReduceMin",)), MODEL, kind="exposing")
    second = check_pass(TapTensors(("a",), ("ReduceMin", "ReduceMax")), first, kind="exposing")
    assert outputs(second) == ["y", "a/ReduceMin", "a/ReduceMax"]
