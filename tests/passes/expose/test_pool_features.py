import numpy as np
import pytest

from onnxmpq.passes.expose.pool_features import PoolFeatures, pooled_name
from onnxmpq.testing import check_pass, model_of, random_feeds, run

MODEL = model_of(
    "g (float[N, 3, 4, 5] x) => (float[N, 2] y) { a = Mul (x, x)  b = Sub (a, one)  p = ReduceMean <axes = [2, 3], keepdims = 0> (b)  y = MatMul (p, w) }",
    one=np.ones(1, np.float32),
    w=np.ones((3, 2), np.float32),
)


def test_the_mean_of_the_positive_part() -> None:
    pooled = check_pass(PoolFeatures({"b": 4, "y": 2}), MODEL, kind="exposing")
    feeds = random_feeds(MODEL)
    found = run(pooled, feeds)
    expected = np.maximum(feeds["x"] ** 2 - 1, 0).mean(axis=(2, 3))
    np.testing.assert_allclose(found[pooled_name("b")], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[pooled_name("y")], np.maximum(found["y"], 0))


@pytest.mark.parametrize("ranks", [{}, {"nowhere": 4}])
def test_nothing_to_pool(ranks: dict[str, int]) -> None:
    assert len(check_pass(PoolFeatures(ranks), MODEL, kind="exposing").graph.output) == 1


def test_a_second_set_adds_to_the_first() -> None:
    first = check_pass(PoolFeatures({"a": 4}), MODEL, kind="exposing")
    second = check_pass(PoolFeatures({"a": 4, "b": 4}), first, kind="exposing")
    assert [o.name for o in second.graph.output] == ["y", "a/pooled", "b/pooled"]
