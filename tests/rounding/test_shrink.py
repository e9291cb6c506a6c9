from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.rounding.compensate import compensate
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.shrink import diagonals, shrinkage, shrunk
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.testing.models import example_layer

LAYER = example_layer("fc", "Gemm", ("fc",), "w", (40, 128), 0)


def inputs(count: int, columns: int, seed: int = 0) -> np.ndarray:
    """Positive and correlated, as behind a ReLU and a pool."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((12, columns))
    noise = 0.5 * rng.standard_normal((count, columns))
    values: np.ndarray = np.maximum(rng.standard_normal((count, 12)) @ mixing + noise, 0.0)
    return values


def gram(x: np.ndarray) -> np.ndarray:
    values: np.ndarray = (x.T @ x)[None]
    return values


def of(gram: np.ndarray, count: int, within: np.ndarray | None = None) -> Moments:
    """Moments of matrices alone."""
    return Moments(gram, np.zeros(gram.shape[:2]), count, within)


def moments(x: np.ndarray, within: np.ndarray | None = None) -> Moments:
    return of(gram(x), len(x), within)


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
    some, behind = gram(inputs(32, 16)), gram(inputs(500, 16, seed=3))

    def wider(gram: np.ndarray) -> np.ndarray:
        values = np.zeros((1, 20, 20))
        values[:, :16, :16] = gram
        return values

    np.testing.assert_allclose(part(of(wider(some), 32)), part(of(some, 32)))
    np.testing.assert_allclose(part(of(wider(some), 32, wider(behind))), part(of(some, 32, behind)))
    nothing = np.zeros((1, 3, 3))
    for silent in (of(nothing, 5), of(nothing, 5, nothing), of(nothing, 5, np.ones((1, 3, 3)))):
        assert np.isfinite(shrunk(silent)).all()


def test_columns_that_only_vary_within_maps_change_nothing() -> None:
    seen, within = np.zeros((1, 20, 20)), gram(inputs(500, 20, seed=3))
    seen[:, :16, :16] = gram(inputs(32, 16))
    found, target = shrinkage(of(seen, 32, within))
    expected, others = shrinkage(of(seen[:, :16, :16], 32, within[:, :16, :16]))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(target[:, :16, :16], others)
    assert not target[:, 16:].any()


@pytest.mark.parametrize("alike", [0.3, 0.8])
def test_the_formula_with_what_varies_within_maps_by_hand(alike: float) -> None:
    """Correlations of 0.6 seen 99 times: |S|^2 = 0.72, and of 0.3 (s would be 2) or 0.8 (s = 0.75, all of S) within."""
    seen = np.array([[[4.0, 3.6], [3.6, 9.0]]])
    within = np.array([[[1.0, 2 * alike], [2 * alike, 4.0]]])
    found, target = shrinkage(of(seen, 99, within))
    share = min(0.6 / alike, 1.0)
    true = (0.72 - 2 / 99) / (1 + 1 / 99)
    kept = (true - 4 * share * 0.6 * alike + 2 * (share * alike) ** 2) / (
        2 * (0.6 - share * alike) ** 2 + 1e-300
    )
    np.testing.assert_allclose(found, [1 - np.clip(kept, 0.01, 1)] if alike < 0.6 else [0.99])
    np.testing.assert_allclose(target, [[[4.0, share * alike * 6], [share * alike * 6, 9.0]]])


def test_what_varies_within_maps_counts_as_far_as_it_is_alike() -> None:
    """None of it where it has nothing to do with what is seen, and the more of what is seen, the more of that there is."""
    other = np.random.default_rng(4).standard_normal((5000, 64))
    unlike = shrinkage(moments(inputs(32, 64), gram(other)))[1]
    np.testing.assert_allclose(unlike, diagonals(unlike), atol=0.1 * np.abs(unlike).max())
    within = gram(inputs(2000, 64, seed=3) + 0.5 * np.random.default_rng(6).standard_normal((2000, 64)))
    few, many = (part(moments(inputs(count, 64), within))[0] for count in (16, 65_536))
    assert many < 0.05
    assert many < few


def test_maps_that_do_not_vary_tell_nothing() -> None:
    some = inputs(32, 64)
    for within in (np.zeros((1, 64, 64)), None):
        np.testing.assert_array_equal(shrunk(moments(some, within)), shrunk(moments(some)))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_against_few_windows_holds_on_others(bits: int) -> None:
    """Half as many windows as columns: better than without data, and than against the moments as they are."""
    weight = np.random.default_rng(1).standard_normal(LAYER.shape).astype(np.float32)
    seen, other = inputs(64, 128), inputs(4000, 128, seed=5)

    def lost(rounded: np.ndarray) -> float:
        return float(np.square(other @ (weight - rounded).T).sum())

    drawn, plain = (
        lost(compensate(weight, LAYER, known, [bits])[bits].dequantize())
        for known in (shrunk(moments(seen)), moments(seen).gram)
    )
    balanced = lost(quantize_balanced(weight, 0, bits).dequantize())
    nearest = lost(quantize(weight, 0, bits).dequantize())
    assert drawn < min(plain, balanced, nearest)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_maps_before_a_pool_tell_what_their_means_do_not(bits: int) -> None:
    """Positions of a map are their mean and much of their own besides."""
    weight = np.random.default_rng(1).standard_normal(LAYER.shape).astype(np.float32)
    maps = inputs(64, 128)[:, None] + inputs(64 * 9, 128, seed=2).reshape(64, 9, 128)
    others = inputs(500, 128, seed=5)[:, None] + inputs(500 * 9, 128, seed=7).reshape(500, 9, 128)
    seen, other = maps.mean(axis=1), others.mean(axis=1)

    def lost(some: Moments) -> float:
        rounded = compensate(weight, LAYER, shrunk(some), [bits])[bits].dequantize()
        return float(np.square(other @ (weight - rounded).T).sum())

    left = (maps - seen[:, None]).reshape(-1, 128)
    assert lost(moments(seen, gram(left))) < 0.95 * lost(moments(seen))
