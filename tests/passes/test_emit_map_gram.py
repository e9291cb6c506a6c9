import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.emit_map_gram import EmitMapGram, map_gram_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of(
    "g (float[N, 3, 4, 5] x) => (float[N, 2] y) { a = Relu (x)  p = GlobalAveragePool (a)  f = Flatten (p)  y = MatMul (f, w) }",
    w=np.ones((3, 2), np.float32),
)


def test_the_sums_over_all_positions() -> None:
    tapped = check_pass(EmitMapGram({"w": "a"}), MODEL, kind="exposing")
    feeds = random_feeds(MODEL)
    found = run(tapped, feeds)[map_gram_name("w")]
    maps = np.maximum(feeds["x"], 0).transpose(0, 2, 3, 1).reshape(-1, 3)
    rows = np.concatenate([maps, np.ones((len(maps), 1))], axis=1)
    np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-5)


@pytest.mark.parametrize("maps", [{}, {"w": "nowhere"}])
def test_nothing_to_emit(maps: dict[str, str]) -> None:
    assert not EmitMapGram(maps)(gs.import_onnx(MODEL))


def test_half_precision_is_summed_in_single() -> None:
    half = model_of(
        "g (float16[N, 3, 4, 5] x) => (float16[N, 3, 1, 1] y) { a = Relu (x)  y = GlobalAveragePool (a) }"
    )
    tapped = check_pass(EmitMapGram({"w": "a"}), half, kind="exposing")
    assert run(tapped, random_feeds(half))[map_gram_name("w")].dtype == np.float32
