import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.expose.emit_map_gram import EmitMapGram, map_gram_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of(
    "g (float[N, 3, 4, 5] x) => (float[N, 2] y) { a = Relu (x)  p = GlobalAveragePool (a)  f = Flatten (p)  y = MatMul (f, w) }",
    w=np.ones((3, 2), np.float32),
)


def scatter(maps: np.ndarray, every: int) -> np.ndarray:
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    left = (flat - flat.mean(axis=2, keepdims=True))[:, :, ::every].transpose(1, 0, 2).reshape(3, -1)
    values: np.ndarray = left @ left.T
    return values


@pytest.mark.parametrize(("most", "every"), [(20, 1), (100, 1), (10, 2), (7, 2), (1, 20)])
def test_the_scatter_within_the_maps(most: int, every: int) -> None:
    tapped = check_pass(EmitMapGram({"w": "a"}, most), MODEL, kind="exposing")
    feeds = random_feeds(MODEL)
    found = run(tapped, feeds)[map_gram_name("w")]
    np.testing.assert_allclose(found, scatter(np.maximum(feeds["x"], 0), every), rtol=1e-4, atol=1e-5)


def test_of_no_samples_it_is_zero() -> None:
    """As where rows are chosen by the data."""
    tapped = check_pass(EmitMapGram({"w": "a"}, 20), MODEL, kind="exposing")
    found = run(tapped, {"x": np.zeros((0, 3, 4, 5), np.float32)})[map_gram_name("w")]
    np.testing.assert_array_equal(found, np.zeros((3, 3)))


@pytest.mark.parametrize("maps", [{}, {"w": "nowhere"}])
def test_nothing_to_emit(maps: dict[str, str]) -> None:
    assert not EmitMapGram(maps, 20)(gs.import_onnx(MODEL))


def test_half_precision_is_summed_in_single() -> None:
    half = model_of(
        "g (float16[N, 3, 4, 5] x) => (float16[N, 3, 1, 1] y) { a = Relu (x)  y = GlobalAveragePool (a) }"
    )
    tapped = check_pass(EmitMapGram({"w": "a"}, 20), half, kind="exposing")
    assert run(tapped, random_feeds(half))[map_gram_name("w")].dtype == np.float32
