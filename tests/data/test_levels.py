import numpy as np
import onnx
import pytest

from onnxmpq.data import InputSpec
from onnxmpq.data.levels import matching_levels
from onnxmpq.data.synthetic import LEVELS, image_feeds
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

RUNTIME = Runtime("cpu", 1)
SPECS = [InputSpec("x", np.dtype(np.float32), (None, 3, 16, 16))]
WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)


def responses(levels_: int) -> np.ndarray:
    """What the convolution makes of images on such levels, [8, values]."""
    images = np.concatenate(
        [image_feeds(SPECS, np.random.default_rng(i), LEVELS[levels_])["x"] for i in range(8)]
    )
    session = RUNTIME.session(
        model_of("g (float[N, 3, 16, 16] x) => (float[N, 8, 14, 14] y) { y = Conv (x, w) }", w=WEIGHT)
    )
    return np.moveaxis(session.run({"x": images})["y"], 1, 0).reshape(8, -1)


def normalised(levels_: int) -> onnx.ModelProto:
    made = responses(levels_)
    return model_of(
        """g (float[N, 3, 16, 16] x) => (float[N, 8, 14, 14] y) {
            c = Conv (x, w) y = BatchNormalization (c, one, zero, mean, variance)
        }""",
        w=WEIGHT, one=np.ones(8, np.float32), zero=np.zeros(8, np.float32),
        mean=made.mean(axis=1), variance=made.var(axis=1),
    )  # fmt: skip


@pytest.mark.parametrize("levels_", range(len(LEVELS)))
def test_what_batch_normalization_has_seen_tells_the_levels(levels_: int) -> None:
    assert matching_levels(RUNTIME, normalised(levels_), SPECS, 5) == LEVELS[levels_]


def test_biases_tell_the_scale_where_normalizations_were_folded() -> None:
    folded = model_of(
        "g (float[N, 3, 16, 16] x) => (float[N, 8, 14, 14] y) { y = Conv (x, w, b) }",
        w=WEIGHT / 64, b=responses(0).std(axis=1),
    )  # fmt: skip
    assert matching_levels(RUNTIME, folded, SPECS, 0).deviation == 64


def test_the_usual_levels_where_nothing_tells() -> None:
    bare = model_of("g (float[N, 3, 16, 16] x) => (float[N, 8, 14, 14] y) { y = Conv (x, w) }", w=WEIGHT)
    assert matching_levels(RUNTIME, bare, SPECS, 0) == LEVELS[0]
    signal = [InputSpec("x", np.dtype(np.float32), (None, 4))]
    dense = model_of("g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }")
    assert matching_levels(RUNTIME, dense, signal, 0) == LEVELS[0]
