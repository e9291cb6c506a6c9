"""Coordinate descent: never worse than where it began, and close to the best of all roundings."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.rounding.coordinate_descent import coordinate_descent
from onnxmpq.rounding.gptq import Curvature, curvature, gptq
from onnxmpq.rounding.quantizer import nearest_codes
from onnxmpq.rounding.rows import Columns, Stack


def setting(size: int, seed: int) -> tuple[Columns, Curvature]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, size, 4 * size)) + 1
    curved = curvature(x @ x.transpose(0, 2, 1))
    return rng.standard_normal((1, size, 3)).astype(np.float32), curved


def cost(columns: Columns, codes: Columns, steps: Stack, curved: Curvature) -> np.ndarray:
    error = columns - codes * steps[:, None]
    form: np.ndarray = np.einsum("gin,gij,gjn->gn", error, curved.gram, error)
    return form


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10_000), st.sampled_from([1, 3, 7]))
def test_never_worse_than_where_it_began(size: int, seed: int, highest: int) -> None:
    columns, curved = setting(size, seed)
    steps = np.abs(columns).max(axis=1) / highest
    bound = np.full(3, highest, np.float32)
    codes = np.clip(np.rint(columns / steps[:, None]), -highest, highest)
    better, scales = coordinate_descent(
        columns, codes, steps, nearest_codes(-bound, bound), curved, lambda values: values
    )
    assert np.abs(better).max() <= highest
    assert (better == np.rint(better)).all()
    assert (scales > 0).all()
    before, after = cost(columns, codes, steps, curved), cost(columns, better, scales, curved)
    assert (after <= before * (1 + 1e-3) + 1e-6).all()


def test_close_to_the_best_of_all_roundings() -> None:
    ratios = []
    for seed in range(20):
        columns, curved = setting(7, seed)
        columns, steps, bound = columns[:, :, :1], np.full((1, 1), 0.5, np.float32), np.full(1, 3, np.float32)
        codes, _ = gptq(columns, steps, nearest_codes(-bound, bound), curved)
        found, scales = coordinate_descent(
            columns, codes, steps, nearest_codes(-bound, bound), curved, lambda values: values
        )
        every = np.array(list(itertools.product(range(-3, 4), repeat=7)), np.float32)
        error = columns[0, :, 0] - every * steps[0]
        best = np.einsum("ni,ij,nj->n", error, curved.gram[0], error).min()
        ratios.append(cost(columns, found, scales, curved)[0, 0] / best)
    assert np.median(ratios) < 1.05  # its scale is free, so it may well be below 1


def test_a_scale_keeps_its_sign_where_the_codes_ask_for_the_other() -> None:
    columns, curved = setting(5, 0)
    steps = np.array([[0.5, -0.5, 0.25]], np.float32)
    codes = -np.sign(columns * steps[:, None])
    given = itertools.cycle(codes.transpose(1, 0, 2))  # whatever is asked for, column by column
    found, scales = coordinate_descent(
        columns, codes, steps, lambda _: next(given), curved, lambda values: values
    )
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(scales, steps)


def test_a_row_whose_scale_vanished_keeps_its_codes() -> None:
    columns, curved = setting(5, 0)
    steps = np.abs(columns).max(axis=1) / 3
    codes = np.clip(np.rint(columns / steps[:, None]), -3, 3)
    steps[:, 1] = 0
    bound = np.full(3, 3, np.float32)
    found, _ = coordinate_descent(columns, codes, steps, nearest_codes(-bound, bound), curved, lambda v: v)
    np.testing.assert_array_equal(found[:, :, 1], codes[:, :, 1])
