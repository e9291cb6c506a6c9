from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.spec import Layer
from onnxmpq.weights.compensate import compensate
from onnxmpq.weights.gram import Moments
from onnxmpq.weights.quantizer import quantize
from onnxmpq.weights.rounding import quantize_balanced
from onnxmpq.weights.shrink import diagonals, shrinkage, shrunk

LAYER = Layer("fc", "Gemm", ("fc",), "w", (40, 128), 0)


def inputs(count: int, columns: int, seed: int = 0) -> np.ndarray:
    """Positive and correlated, as behind a ReLU and a pool."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((12, columns))
    noise = 0.5 * rng.standard_normal((count, columns))
    values: np.ndarray = np.maximum(rng.standard_normal((count, 12)) @ mixing + noise, 0.0)
    return values


def moments(x: np.ndarray, pooled: Moments | None = None) -> Moments:
    return Moments((x.T @ x)[None], x.mean(axis=0)[None], len(x), pooled)


def of(gram: np.ndarray, count: int, pooled: np.ndarray | None = None) -> Moments:
    """Moments of matrices alone."""
    behind = None if pooled is None else of(pooled, 1000)
    return Moments(gram, np.zeros(gram.shape[:2]), count, behind)


def part(some: Moments) -> np.ndarray:
    return shrinkage(some)[0]


def test_the_formula_by_hand() -> None:
    """Two columns of correlation 0.6 seen 9 times: S^2 has trace 2.72, and 2/p is 1."""
    found = part(of(np.array([[[4.0, 3.6], [3.6, 9.0]]]), 9))
    np.testing.assert_allclose(found, [4 / (9 * 0.72)])


def test_many_windows_are_left_alone_and_few_are_not() -> None:
    few, many = (part(moments(inputs(count, 64)))[0] for count in (32, 65_536))
    assert many < 0.002
    assert 0.05 < few < 1


def test_the_diagonal_stays() -> None:
    some = moments(inputs(20, 64))
    drawn = shrunk(some)
    np.testing.assert_allclose(np.einsum("gii->gi", drawn), np.einsum("gii->gi", some.gram))
    assert np.linalg.matrix_rank(some.gram[0]) < 64 == np.linalg.matrix_rank(drawn[0])


def test_columns_that_nothing_reaches_change_nothing() -> None:
    some, behind = moments(inputs(32, 16)).gram, moments(inputs(500, 16, seed=3)).gram

    def wider(gram: np.ndarray) -> np.ndarray:
        values = np.zeros((1, 20, 20))
        values[:, :16, :16] = gram
        return values

    np.testing.assert_allclose(part(of(wider(some), 32)), part(of(some, 32)))
    np.testing.assert_allclose(part(of(wider(some), 32, wider(behind))), part(of(some, 32, behind)))
    nothing = np.zeros((1, 3, 3))
    for silent in (of(nothing, 5), of(nothing, 5, nothing), of(nothing, 5, np.ones((1, 3, 3)))):
        assert np.isfinite(shrunk(silent)).all()


def test_the_formula_with_what_is_pooled_by_hand() -> None:
    """Correlations of 0.6 seen 9 times and of 0.5 behind them: |S|^2 = 0.72, <S, P> = 0.6, |P|^2 = 0.5, s is 1 at most."""
    seen, behind = np.array([[[4.0, 3.6], [3.6, 9.0]]]), np.array([[[1.0, 1.0], [1.0, 4.0]]])
    found, target = shrinkage(of(seen, 9, behind))
    true = (0.72 - 2 / 9) / (1 + 1 / 9)
    np.testing.assert_allclose(found, [1 - max(0.01, (true - 0.6) / (0.72 - 0.6))])
    np.testing.assert_allclose(target, [[[4.0, 0.5 * 2 * 3], [0.5 * 2 * 3, 9.0]]])


def test_what_is_pooled_counts_as_far_as_it_is_alike() -> None:
    """None of it where it has nothing to do with what is seen, and the more of what is seen, the more of that there is."""
    other = np.random.default_rng(4).standard_normal((500, 64))
    unlike = shrinkage(of(moments(inputs(32, 64)).gram, 32, moments(other).gram))[1]
    np.testing.assert_allclose(unlike, diagonals(unlike), atol=0.1 * np.abs(unlike).max())
    behind = moments(inputs(2000, 64, seed=3) + 0.5 * np.random.default_rng(6).standard_normal((2000, 64)))
    few, many = (part(moments(inputs(count, 64), behind))[0] for count in (16, 65_536))
    assert many < 0.01
    assert many < few


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_against_few_windows_holds_on_others(bits: int) -> None:
    """Half as many windows as columns: better than without data, and than against the moments as they are."""
    weight = np.random.default_rng(1).standard_normal(LAYER.shape).astype(np.float32)
    seen, other = inputs(64, 128), inputs(4000, 128, seed=5)

    def lost(rounded: np.ndarray) -> float:
        return float(np.square(other @ (weight - rounded).T).sum())

    drawn, plain = (
        lost(compensate(weight, LAYER, gram, [bits])[bits].dequantize())
        for gram in (shrunk(moments(seen)), moments(seen).gram)
    )
    balanced = lost(quantize_balanced(weight, 0, bits).dequantize())
    nearest = lost(quantize(weight, 0, bits).dequantize())
    assert drawn < min(plain, balanced, nearest)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_maps_behind_a_pool_tell_what_their_means_do_not(bits: int) -> None:
    """Positions of a map are their mean and much of their own besides."""
    weight = np.random.default_rng(1).standard_normal(LAYER.shape).astype(np.float32)
    maps = inputs(64, 128)[:, None] + inputs(64 * 9, 128, seed=2).reshape(64, 9, 128)
    others = inputs(500, 128, seed=5)[:, None] + inputs(500 * 9, 128, seed=7).reshape(500, 9, 128)
    seen, other = maps.mean(axis=1), others.mean(axis=1)

    def lost(some: Moments) -> float:
        rounded = compensate(weight, LAYER, shrunk(some), [bits])[bits].dequantize()
        return float(np.square(other @ (weight - rounded).T).sum())

    assert lost(moments(seen, moments(maps.reshape(-1, 128)))) < 0.95 * lost(moments(seen))
