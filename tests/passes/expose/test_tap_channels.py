import numpy as np
import onnx

from onnxmpq.passes.expose.tap_channels import TapChannels, channels_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of("""
g (float[2, 3, 4] x, float[2, 3, 4] z) => (float[2, 3, 4] y) {
    a = Add (x, z)
    y = Relu (a)
}
""")


def outputs(model: onnx.ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]


def test_sums_over_the_channels_of_inputs_inner_tensors_and_outputs() -> None:
    names = ("x", "a", "y")
    rewrite = TapChannels(dict.fromkeys(names, (1, 2)), dict.fromkeys(names, 3))
    feeds = random_feeds(MODEL)
    found = run(check_pass(rewrite, MODEL, kind="exposing"), feeds)
    expected = {"x": feeds["x"], "a": feeds["x"] + feeds["z"], "y": found["y"]}
    for name, values in expected.items():
        for power in (1, 2):
            for axis, others in ((1, (0, 2)), (2, (0, 1))):
                sums = (values.astype(np.float64) ** power).sum(axis=others)
                np.testing.assert_allclose(
                    found[channels_name(name, axis, power)], sums, rtol=1e-5, atol=1e-5
                )


def test_unknown_tensors_are_left_out() -> None:
    rewrite = TapChannels({"nowhere": (1,)}, {"nowhere": 2})
    assert outputs(check_pass(rewrite, MODEL, kind="exposing")) == ["y"]
