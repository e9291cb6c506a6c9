"""Compensated rounding against a brute-force reference, and the layouts of every layer."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.rounding.compensate import bias_shift, compensate
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.rows import (
    block_columns,
    block_count,
    channel_scales,
    columns,
    from_rows,
    row_scales,
    to_rows,
)
from onnxmpq.testing.models import example_layer
from onnxmpq.values.arrays import Doubles, Floats
from onnxmpq.values.layer import Layer
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, code_range

SHAPES = {
    "Conv": ((6, 4, 3, 3), 0, 1),
    "grouped": ((6, 2, 3, 3), 0, 3),
    "depthwise": ((6, 1, 3, 3), 0, 6),
    "ConvTranspose": ((4, 3, 2, 2), 1, 1),
    "grouped ConvTranspose": ((4, 3, 2, 2), 1, 2),
    "Gemm": ((5, 7), 1, 1),
    "MatMul": ((7, 5), 0, 1),
}


def small_layer(kind: str, bias: str | None = None) -> Layer:
    shape, axis, group = SHAPES[kind]
    op = (
        kind.rsplit(maxsplit=1)[-1]
        if kind.rsplit(maxsplit=1)[-1] in {"ConvTranspose", "Gemm", "MatMul"}
        else "Conv"
    )
    return example_layer(kind, op, (kind,), "w", shape, axis, group, bias=bias)


def moments_of(layer: Layer, seed: int, mean: float = 0.0) -> tuple[Moments, Floats]:
    group, _, size = to_rows(np.zeros(layer.shape, np.float32), layer).shape
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((group, size, size)) + 2
    x = mixing @ rng.standard_normal((group, size, 8 * size)) + mean
    return Moments(x @ x.transpose(0, 2, 1), x.mean(axis=2), x.shape[2]), x.astype(np.float32)


def gram_for(layer: Layer, moments: Moments) -> Doubles:
    return moments.gram if layer.bias is None else moments.centred().gram


def output_error(weight: Floats, rounded: Floats, layer: Layer, x: Floats) -> float:
    return float(np.square((to_rows(weight, layer) - to_rows(rounded, layer)) @ x).sum())


@pytest.mark.parametrize("kind", SHAPES)
def test_rows_and_back(kind: str) -> None:
    layer = small_layer(kind)
    codes = np.random.default_rng(0).integers(-8, 8, layer.shape).astype(np.float32)
    rows = to_rows(codes, layer)
    assert rows.shape[0] == layer.group
    assert np.array_equal(from_rows(rows, layer), codes)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_disturbs_the_output_less_than_nearest_rounding(kind: str, bits: int) -> None:
    layer = small_layer(kind)
    weight = np.random.default_rng(1).standard_normal(layer.shape).astype(np.float32)
    moments, x = moments_of(layer, 2)
    stored = compensate(weight, layer, gram_for(layer, moments), [bits])[bits]
    low, high = code_range(bits, odd=stored.odd)
    assert low <= stored.codes.min() <= stored.codes.max() <= high
    nearest = quantize(weight, layer.axis, bits)
    ours = output_error(weight, stored.dequantize(), layer, x)
    assert ours < output_error(weight, nearest.dequantize(), layer, x)


def test_weights_whose_squares_are_no_numbers_are_rounded_without_a_word() -> None:
    layer = small_layer("Gemm")
    weight = np.random.default_rng(1).standard_normal(layer.shape).astype(np.float32)
    gram = gram_for(layer, moments_of(layer, 2)[0])
    found = compensate(np.float32(2.0**100) * weight, layer, gram, [3])[3]
    assert np.isfinite(found.dequantize()).all()


@pytest.mark.parametrize("seed", range(4))
def test_two_bits_take_the_better_grid(seed: int) -> None:
    layer = small_layer("Gemm")
    weight = np.random.default_rng(seed).standard_normal(layer.shape).astype(np.float32)
    moments, x = moments_of(layer, seed + 20)
    both, even = (
        compensate(weight, layer, moments.gram, [2], some)[2] for some in (EVERY_GRID, Grids(odd=False))
    )
    ours, theirs = (output_error(weight, some.dequantize(), layer, x) for some in (both, even))
    assert ours <= 1.02 * theirs  # the grids are judged on damped moments


def test_comes_close_to_the_best_of_all_roundings() -> None:
    layer = example_layer("fc", "Gemm", ("fc",), "w", (1, 8), 0)
    worse = []
    for seed in range(20):
        weight = np.random.default_rng(seed).standard_normal(layer.shape).astype(np.float32)
        moments, x = moments_of(layer, seed + 100)
        stored = compensate(weight, layer, gram_for(layer, moments), [3])[3]
        below = np.floor(weight / stored.scale[:, None])
        best = min(
            output_error(weight, ((below + up) * stored.scale[:, None]).astype(np.float32), layer, x)
            for up in itertools.product((0, 1), repeat=8)
        )
        worse.append(output_error(weight, stored.dequantize(), layer, x) / best)
    nearest = np.median(worse)
    assert nearest < 1.5


@pytest.mark.parametrize("kind", ["grouped", "depthwise"])
def test_every_group_is_rounded_against_its_own_matrix(kind: str) -> None:
    layer = small_layer(kind)
    weight = np.random.default_rng(8).standard_normal(layer.shape).astype(np.float32)
    moments, _ = moments_of(layer, 9)
    energies = moments.gram * (10.0 ** np.arange(layer.group))[:, None, None]
    stored = compensate(weight, layer, energies, [3])[3]
    rows = layer.shape[0] // layer.group
    alone = example_layer("g", "Conv", ("g",), "w", (rows, *layer.shape[1:]), 0)
    for g in range(layer.group):
        part = slice(g * rows, (g + 1) * rows)
        expected = compensate(weight[part], alone, energies[g : g + 1], [3])[3]
        assert np.array_equal(stored.codes[part], expected.codes)
        np.testing.assert_allclose(stored.scale[part], expected.scale, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3])
def test_depthwise_comes_close_to_the_best_of_all_codes(bits: int) -> None:
    layer = example_layer("dw", "Conv", ("dw",), "w", (40, 1, 2, 2), 0, 40)
    weight = np.random.default_rng(10).standard_normal(layer.shape).astype(np.float32)
    moments, _ = moments_of(layer, 11)
    stored = compensate(weight, layer, moments.gram, [bits])[bits]
    low, high = code_range(bits)
    every = np.array(list(itertools.product(range(low, high + 1), repeat=4)), np.float32)
    errors = weight.reshape(40, 1, 4) - every * stored.scale[:, None, None]
    best = np.einsum("gnd,gde,gne->gn", errors, moments.gram, errors).min(axis=1)
    left = to_rows(weight - stored.dequantize(), layer)
    ours = np.einsum("grd,gde,gre->g", left, moments.gram, left)
    assert np.median(ours / best) < 1.02
    assert ours.sum() < 1.1 * best.sum()


BLOCKED = {"Conv": 20, "grouped": 10, "ConvTranspose": 2, "grouped ConvTranspose": 1, "Gemm": 4, "MatMul": 4}


@pytest.mark.parametrize(("kind", "largest"), BLOCKED.items())
@pytest.mark.parametrize("bits", [2, 4])
def test_blocks_round_as_the_whole_without_what_lies_between_them(
    kind: str, largest: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing lies between the blocks, they lose nothing but what one damping for all is worth."""
    layer = small_layer(kind, bias="b" if kind == "Conv" else None)
    weight = np.random.default_rng(1).standard_normal(layer.shape).astype(np.float32)
    moments, _ = moments_of(layer, 2)
    monkeypatch.setattr("onnxmpq.rounding.rows.MOST_COLUMNS", largest)
    blocks, size = block_count(layer), block_columns(layer)
    assert blocks > 1
    assert np.array_equal(from_rows(to_rows(weight, layer), layer), weight)
    assert np.array_equal(
        channel_scales(row_scales(np.arange(weight.shape[layer.axis], dtype=np.float32), layer), layer),
        np.arange(weight.shape[layer.axis]),
    )
    missing = blocks * size - columns(layer)
    filled = np.pad(moments.gram, [(0, 0), (0, missing), (0, missing)])
    parts = np.stack([g[i : i + size, i : i + size] for g in filled for i in range(0, blocks * size, size)])
    stored = compensate(weight, layer, parts, [bits])[bits]
    monkeypatch.undo()
    between = np.arange(columns(layer)) // size
    diagonal = moments.gram * (between[:, None] == between)
    whole = compensate(weight, layer, diagonal, [bits])[bits]
    ours, theirs = (cost(weight, s.dequantize(), layer, diagonal) for s in (stored, whole))
    assert stored.scale.shape == whole.scale.shape
    assert ours < 1.1 * theirs


def cost(weight: Floats, rounded: Floats, layer: Layer, gram: Doubles) -> float:
    error = to_rows(weight, layer) - to_rows(rounded, layer)
    return float(np.einsum("grd,gde,gre->", error, gram, error))


def test_the_bias_takes_up_the_mean_of_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = small_layer("grouped", bias="b")
    weight = np.random.default_rng(5).standard_normal(layer.shape).astype(np.float32)
    rounded = quantize(weight, 0, 3).dequantize()
    moments, _ = moments_of(layer, 6, mean=3.0)
    whole = bias_shift(weight, rounded, layer, moments)
    monkeypatch.setattr("onnxmpq.rounding.rows.MOST_COLUMNS", 10)
    parts = Moments(moments.gram, moments.mean.reshape(6, 9), moments.count)
    np.testing.assert_allclose(bias_shift(weight, rounded, layer, parts), whole, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True))
def test_widths_rounded_together_are_as_rounded_alone(kind: str, widths: list[int]) -> None:
    layer = small_layer(kind)
    weight = np.random.default_rng(3).standard_normal(layer.shape).astype(np.float32)
    moments, _ = moments_of(layer, 4)
    together = compensate(weight, layer, gram_for(layer, moments), widths)
    for bits in widths:
        alone = compensate(weight, layer, gram_for(layer, moments), [bits])[bits]
        assert np.array_equal(together[bits].codes, alone.codes)


def test_the_bias_takes_up_the_mean() -> None:
    """Moments without the mean then leave less of the error: not in every draw, the walk being no exact search."""
    layer = small_layer("grouped", bias="b")
    centred, whole = 0.0, 0.0
    for seed in range(12):
        weight = np.random.default_rng(5 + seed).standard_normal(layer.shape).astype(np.float32)
        moments, x = moments_of(layer, 60 + seed, mean=3.0)
        rounded = compensate(weight, layer, gram_for(layer, moments), [3])[3].dequantize()
        lost = (to_rows(weight, layer) - to_rows(rounded, layer)) @ x
        shift = bias_shift(weight, rounded, layer, moments)
        assert np.abs(lost.mean(axis=2).ravel() - shift).max() < 1e-3
        free = compensate(weight, small_layer("grouped"), moments.gram, [3])[3].dequantize()
        centred += float(np.square(lost - lost.mean(axis=2, keepdims=True)).sum())
        whole += output_error(weight, free, layer, x)
    assert centred < whole


def test_inputs_that_never_fire_do_no_harm() -> None:
    layer = small_layer("Gemm")
    weight = np.random.default_rng(7).standard_normal(layer.shape).astype(np.float32)
    silent = Moments(np.zeros((1, 5, 5)), np.zeros((1, 5)), 10)
    ours, nearest = compensate(weight, layer, silent.gram, [4])[4], quantize(weight, 1, 4)
    assert np.square(weight - ours.dequantize()).sum() <= np.square(weight - nearest.dequantize()).sum()
