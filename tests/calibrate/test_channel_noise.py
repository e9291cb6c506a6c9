import numpy as np
import pytest

from onnxmpq.calibrate.channel_noise import ruined
from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import CodeType, range_of

RUNTIME = Runtime("cpu", 1)
RNG = np.random.default_rng(0)
MODEL = model_of(
    "g (float[N, 4, 8] x) => (float[N, 4, 8] y) { a = Mul (x, gain) y = Relu (a) }",
    gain=np.ones(1, np.float32),
)


SHAPES = dict.fromkeys(("x", "a"), (1, 4, 8))


def data(x: np.ndarray) -> Dataset:
    return open_data(
        {"x": x.astype(np.float32)}, [InputSpec("x", np.dtype(np.float32), (None, 4, 8))], samples=None
    )


def test_an_outlier_leaves_the_other_channels_nothing() -> None:
    x = RNG.standard_normal((16, 4, 8))
    x[:, 1] += 1000
    found = ruined(RUNTIME, MODEL, {"a": range_of(-3, 1000)}, SHAPES, data(x), 0)
    step = 1003 / 255
    assert found == {"a": pytest.approx(10 * np.log10(12 / step**2), abs=1)}
    assert (
        ruined(RUNTIME, MODEL, {"a": range_of(-3, 3)}, SHAPES, data(RNG.standard_normal((16, 4, 8))), 0) == {}
    )


def test_channels_may_lie_along_the_last_axis() -> None:
    x = RNG.standard_normal((16, 4, 8))
    x[:, :, 5] *= 3000
    assert "a" in ruined(RUNTIME, MODEL, {"a": range_of(-9000, 9000)}, SHAPES, data(x), 0)


def test_constant_channels_have_nothing_to_lose() -> None:
    x = np.ones((16, 4, 8))
    x[:, 3] = 200 * RNG.standard_normal((16, 8))
    assert ruined(RUNTIME, MODEL, {"a": range_of(-500, 500)}, SHAPES, data(x), 0) == {}


def test_narrower_codes_leave_less_whatever_the_channels() -> None:
    alike = data(RNG.standard_normal((16, 4, 8)))
    for signed in (False, True):
        assert ruined(RUNTIME, MODEL, {"a": range_of(-3, 3, CodeType(4, signed))}, SHAPES, alike, 0) == {}


def test_inputs_of_the_graph_are_looked_at_too() -> None:
    x = RNG.standard_normal((16, 4, 8))
    x[:, 1] *= 10_000
    assert "x" in ruined(RUNTIME, MODEL, {"x": range_of(-40_000, 40_000)}, SHAPES, data(x), 0)


def test_of_a_gate_all_that_is_in_it_counts() -> None:
    gates = 0.5 + 0.001 * RNG.standard_normal((16, 4, 8))
    multiplied = model_of("g (float[N, 4, 8] x) => (float[N, 4, 8] y) { b = Neg (x) y = Mul (x, b) }")
    added = model_of("g (float[N, 4, 8] x) => (float[N, 4, 8] y) { b = Neg (x) y = Add (x, b) }")
    ranges = {"b": range_of(-1, 0)}
    shapes = dict.fromkeys(("x", "b"), (1, 4, 8))
    assert "b" in ruined(RUNTIME, added, ranges, shapes, data(gates), 0)
    assert ruined(RUNTIME, multiplied, ranges, shapes, data(gates), 0) == {}
