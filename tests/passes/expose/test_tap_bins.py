import numpy as np
import pytest

from onnxmpq.passes.expose.tap_bins import BINS, TapBins
from onnxmpq.passes.expose.tap_tensors import tap_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of("""
g (float[N, 7, 5] x) => (float[N, 7, 5] y) {
    a = Relu (x)
    y = Neg (a)
}
""")


def test_every_value_of_a_small_tensor_is_numbered_by_its_bin() -> None:
    tapped = check_pass(TapBins({"x": 0.25, "y": 0.5}, most=1000), MODEL, kind="exposing")
    feeds = random_feeds(MODEL)
    found = run(tapped, feeds)
    for name, values, width in (("x", feeds["x"], 0.25), ("y", found["y"], 0.5)):
        numbers = found[tap_name(name, BINS)]
        assert numbers.dtype == np.int64
        np.testing.assert_array_equal(numbers, np.rint(values.ravel() / np.float32(width)))


@pytest.mark.parametrize("size", [1, 99, 100, 101, 300, 301, 1999, 10_000])
def test_a_large_tensor_is_picked_from_by_an_odd_step(size: int) -> None:
    model = model_of("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    values = np.arange(size, dtype=np.float32)
    found = run(check_pass(TapBins({"x": 1.0}, most=100), model, kind="exposing"), {"x": values})
    picked = found[tap_name("x", BINS)]
    step = 1 if len(picked) == 1 else int(picked[1])
    np.testing.assert_array_equal(picked, np.arange(0, size, step))
    assert step % 2 == 1
    assert size / (size / 100 + 2) - 1 <= len(picked) <= 100 or step == 1


def test_a_tensor_without_values_has_no_bins() -> None:
    tapped = check_pass(TapBins({"a": 1.0}, most=10), MODEL, kind="exposing")
    assert run(tapped, {"x": np.zeros((0, 7, 5), np.float32)})[tap_name("a", BINS)].shape == (0,)


def test_unknown_tensors_are_left_out() -> None:
    tapped = check_pass(TapBins({"nowhere": 1.0}, most=10), MODEL, kind="exposing")
    assert [output.name for output in tapped.graph.output] == ["y"]
