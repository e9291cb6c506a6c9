from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.spec import Layer
from onnxmpq.weights.compensate import compensate
from onnxmpq.weights.quantizer import quantize
from onnxmpq.weights.rounding import quantize_balanced
from onnxmpq.weights.shrink import shrinkage, shrunk

LAYER = Layer("fc", "Gemm", ("fc",), "w", (40, 128), 0)


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


def test_the_formula_by_hand() -> None:
    """Two columns of correlation 0.6 seen 9 times: S^2 has trace 2.72, and 2/p is 1."""
    found = shrinkage(np.array([[[4.0, 3.6], [3.6, 9.0]]]), 9)
    np.testing.assert_allclose(found, [4 / (9 * 0.72)])


def test_many_windows_are_left_alone_and_few_are_not() -> None:
    few, many = (shrinkage(gram(inputs(count, 64)), count)[0] for count in (32, 65_536))
    assert many < 0.002
    assert 0.05 < few < 1


def test_the_diagonal_stays() -> None:
    moments = gram(inputs(20, 64))
    drawn = shrunk(moments, 20)
    np.testing.assert_allclose(np.einsum("gii->gi", drawn), np.einsum("gii->gi", moments))
    assert np.linalg.matrix_rank(moments[0]) < 64 == np.linalg.matrix_rank(drawn[0])


def test_columns_that_nothing_reaches_change_nothing() -> None:
    moments = gram(inputs(32, 16))
    wider = np.zeros((1, 20, 20))
    wider[:, :16, :16] = moments
    np.testing.assert_allclose(shrinkage(wider, 32), shrinkage(moments, 32))
    assert np.isfinite(shrinkage(np.zeros((1, 3, 3)), 5)).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_against_few_windows_holds_on_others(bits: int) -> None:
    """Half as many windows as columns: better than without data, and than against the moments as they are."""
    weight = np.random.default_rng(1).standard_normal(LAYER.shape).astype(np.float32)
    seen, other = inputs(64, 128), inputs(4000, 128, seed=5)

    def lost(rounded: np.ndarray) -> float:
        return float(np.square(other @ (weight - rounded).T).sum())

    drawn, plain = (
        lost(compensate(weight, LAYER, moments, [bits])[bits].dequantize())
        for moments in (shrunk(gram(seen), 64), gram(seen))
    )
    balanced = lost(quantize_balanced(weight, 0, bits).dequantize())
    nearest = lost(quantize(weight, 0, bits).dequantize())
    assert drawn < min(plain, balanced, nearest)
