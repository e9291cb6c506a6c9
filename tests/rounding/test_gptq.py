"""GPTQ over columns: its cost is the quadratic form, and a matrix it cannot factor does no harm."""

import numpy as np
import pytest

from onnxmpq.rounding.gptq import curvature, gptq
from onnxmpq.rounding.quantizer import nearest_codes


def matrix(group: int, size: int, windows: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((group, size, windows)) + 1
    return x @ x.transpose(0, 2, 1)


@pytest.mark.parametrize("size", [1, 9, 33, 70])
def test_the_cost_is_that_of_the_damped_matrix(size: int) -> None:
    rng = np.random.default_rng(0)
    curved = curvature(matrix(2, size, 4 * size, 1))
    columns = curved.ordered(rng.standard_normal((2, 5, size)).astype(np.float32))
    steps = np.full((2, 5), 0.3, np.float32)
    bound = np.full(5, 3, np.float32)
    codes, cost = gptq(columns, steps, nearest_codes(-bound, bound), curved)
    error = columns - codes * steps[:, None]
    form = np.einsum("gin,gij,gjn->gn", error, curved.gram, error)
    assert np.allclose(cost, form, rtol=1e-3)
    assert np.abs(codes).max() <= 3


def test_columns_are_restored() -> None:
    curved = curvature(matrix(2, 6, 30, 2))
    rows = np.random.default_rng(3).standard_normal((2, 4, 6)).astype(np.float32)
    assert np.array_equal(curved.restored(curved.ordered(rows)), rows)
    diagonal = np.einsum("gii->gi", curved.gram)
    assert (np.diff(diagonal, axis=1) <= 0).all()


def test_groups_keep_what_they_weigh_beside_each_other() -> None:
    curved = curvature(np.stack([np.eye(3), 4 * np.eye(3), np.zeros((3, 3))]))
    assert curved.energy.tolist() == pytest.approx([0.25, 1, 1e-6])


def test_a_matrix_that_is_not_definite_means_nearest_rounding() -> None:
    curved = curvature(-np.eye(3)[None] * 9)
    rows = np.array([[[0.9, 0.4, -0.7]]], np.float32)
    bound = np.full(1, 3, np.float32)
    codes, _ = gptq(curved.ordered(rows), np.ones((1, 1), np.float32), nearest_codes(-bound, bound), curved)
    assert curved.restored(codes).ravel().tolist() == [1, 0, -1]
