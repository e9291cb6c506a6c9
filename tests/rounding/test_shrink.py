from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.rounding.compensate import compensate
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.shrink import shrinkage, shrunk
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


def of(gram: np.ndarray, count: int) -> Moments:
    """Moments of matrices alone."""
    return Moments(gram, np.zeros(gram.shape[:2]), count)


def moments(x: np.ndarray) -> Moments:
    return of(gram(x), len(x))


def part(some: Moments) -> np.ndarray:
    return shrinkage(some)


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
    some = gram(inputs(32, 16))

    def wider(gram: np.ndarray) -> np.ndarray:
        values = np.zeros((1, 20, 20))
        values[:, :16, :16] = gram
        return values

    np.testing.assert_allclose(part(of(wider(some), 32)), part(of(some, 32)))
    nothing = np.zeros((1, 3, 3))
    assert np.isfinite(shrunk(of(nothing, 5))).all()


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
