"""Rounding behind quantized layers: the fit is that of least squares, and it makes up for what came before."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.data.augmentations import Augmentations
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.requantize import sequential as requantize
from onnxmpq.requantize.regression_target import find_regression_target
from onnxmpq.requantize.sequential import (
    DAMPINGS,
    Fit,
    SequentialRequantizer,
    best_damping,
    requantized,
    solved_rows,
)
from onnxmpq.rounding import moments
from onnxmpq.rounding.candidates import Candidates, fitted
from onnxmpq.rounding.moments import input_moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.shrink import diagonals, shrinkage
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import Grids

CPU = Runtime("cpu", threads=1)
RESIDUAL = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[n, 4, 8, 8] x) => (float[n, 6, 8, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, wb, bb)
    s = Conv (r, ws)
    y = Add (b, s)
}
"""
SHAPES = {"wa": (6, 4, 3, 3), "ba": (6,), "wb": (6, 6, 3, 3), "bb": (6,), "ws": (6, 6, 1, 1)}
GEMM = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[n, 12] x) => (float[n, 5] y) {
    h = Gemm <transB = 1> (x, w1, b1)
    r = Relu (h)
    y = MatMul (r, w2)
}
"""
GEMM_SHAPES = {"w1": (10, 12), "b1": (10,), "w2": (10, 5)}


def network(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        model.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    return model


def layers_of(model: onnx.ModelProto, traced: dict[str, Traced]) -> tuple[Layer, ...]:
    return tuple(discover(import_graph(model), {name: t.shape for name, t in traced.items()}))


def samples(*shape: int) -> Dataset:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((64, *shape)) @ rng.standard_normal((shape[-1], shape[-1]))
    spec = InputSpec("x", np.dtype(np.float32), (None, *shape))
    return open_data({"x": values.astype(np.float32)}, [spec], samples=64)


def outputs(model: onnx.ModelProto, data: Dataset, constants: dict[str, Array]) -> Array:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for initializer in changed.graph.initializer:
        if initializer.name in constants:
            initializer.CopyFrom(numpy_helper.from_array(constants[initializer.name], initializer.name))
    session = CPU.session(changed)
    return np.concatenate([session.run(b.feeds)["y"] for b in data.batches(16)])


def rounded(
    model: onnx.ModelProto, data: Dataset, bits: int
) -> tuple[tuple[Layer, ...], Candidates, Candidates]:
    """The layers, their candidates rounded one by one, and the same requantized."""
    traced = trace(CPU, model, next(iter(data.batches(16))).feeds)
    layers = layers_of(model, traced)
    candidates = Candidates(model)
    for layer, known in input_moments(CPU, model, layers, data, 16, lambda _a, _b: None):
        for some, shift in fitted(candidates.task(layer, known, [bits]))[1]:
            candidates.replace(layer, some, shift)
    requantizer = SequentialRequantizer(CPU, model, model, layers, traced, data, 16, seed=0)
    plan = Plan({layer.name: Option(bits) for layer in layers})
    return layers, candidates, requantized(requantizer, layers, plan, candidates, lambda _a, _b: None)


def odd_or_not(some: Candidates, layers: tuple[Layer, ...], odd: Sequence[bool]) -> Candidates:
    """The candidates with two-bit codes of these kinds, rounded to nearest."""
    changed = some.copy()
    for layer, is_odd in zip(layers, odd, strict=True):
        weight = some.quantized(layer, 2).dequantize()
        changed.replace(layer, quantize(weight, layer.axis, 2, Grids(odd=is_odd, even=not is_odd)), None)
    return changed


@pytest.mark.parametrize("odd", [(False, True, False, True), (True, False, True, False)])
def test_codes_may_stay_of_their_kind(odd: tuple[bool, ...]) -> None:
    """Odd ones take other nodes in a file than others do, and so other bytes."""
    model, data = network(RESIDUAL, SHAPES), samples(4, 8, 8)
    layers, first, _ = rounded(model, data, 2)
    given = odd_or_not(first, layers, odd[: len(layers)])
    traced = trace(CPU, model, next(iter(data.batches(16))).feeds)
    requantizer, plan = (
        SequentialRequantizer(CPU, model, model, layers, traced, data, 16, seed=0),
        Plan({la.name: Option(2) for la in layers}),
    )
    after = requantized(requantizer, layers, plan, given, lambda _a, _b: None, same_kind=True)
    for layer, is_odd in zip(layers, odd, strict=False):
        found = after.quantized(layer, 2)
        assert found.odd is is_odd
        assert (found.codes % 2 == 1).all() or not is_odd
    assert any(
        not np.array_equal(after.quantized(la, 2).codes, given.quantized(la, 2).codes) for la in layers
    )


def constants(layers: tuple[Layer, ...], candidates: Candidates, bits: int) -> dict[str, Array]:
    return {name: value for layer in layers for name, value in candidates.constants(layer, bits).items()}


@pytest.mark.parametrize(
    ("text", "shapes", "inputs"),
    [(RESIDUAL, SHAPES, (4, 8, 8)), (GEMM, GEMM_SHAPES, (12,))],
    ids=["residual", "gemm"],
)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_networks_are_closer_to_their_float_selves(
    text: str, shapes: dict[str, tuple[int, ...]], inputs: tuple[int, ...], bits: int
) -> None:
    """Most of them: of two bits and two layers a single one may be worse."""
    ratios = []
    for seed in range(5):
        model, data = network(text, shapes, seed), samples(*inputs)
        layers, before, after = rounded(model, data, bits)
        reference = outputs(model, data, {})
        first, second = (
            np.square(outputs(model, data, constants(layers, some, bits)) - reference).sum()
            for some in (before, after)
        )
        ratios.append(second / first)
    assert np.log(ratios).mean() < 0


def correlated(count: int, columns: int, seed: int) -> Dataset:
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(9).standard_normal((8, columns))
    values = rng.standard_normal((count, 8)) @ mixing + 0.3 * rng.standard_normal((count, columns))
    spec = InputSpec("x", np.dtype(np.float32), (None, columns))
    return open_data({"x": values.astype(np.float32)}, [spec], samples=count)


@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_fitted_to_few_windows_holds_on_others(bits: int) -> None:
    """A third as many windows as columns: a fit that trusts them loses on other inputs what it wins on these."""
    model = network(GEMM.replace("12]", "96]"), {"w1": (96, 96), "b1": (96,), "w2": (96, 5)})
    layers, before, after = rounded(model, correlated(32, 96, 1), bits)
    other = correlated(2000, 96, 2)
    reference = outputs(model, other, {})
    unrequantized, requantized_ = (
        np.square(outputs(model, other, constants(layers, some, bits)) - reference).sum()
        for some in (before, after)
    )
    assert requantized_ < 1.15 * unrequantized  # 1.27 and 1.50 times where they are trusted


def pointwise(size: int) -> tuple[onnx.ModelProto, Dataset, dict[str, Traced], Layer]:
    """A network of one convolution over maps of that size, 64 samples, a run's tensors, and the layer."""
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
      net (float[n, 12, {size}, {size}] x) => (float[n, 5, {size}, {size}] y) {{ y = Conv (x, w) }}"""
    model, data = network(text, {"w": (5, 12, 1, 1)}), samples(12, size, size)
    traced = trace(CPU, model, next(iter(data.batches(16))).feeds)
    (layer,) = layers_of(model, traced)
    return model, data, traced, layer


def test_a_convolution_of_a_single_place_sees_more_samples_as_a_matrix_does() -> None:
    model, data, traced, layer = pointwise(1)
    assert layer.positions == (1, 1)
    requantizer, regression = (
        SequentialRequantizer(CPU, model, model, [layer], traced, data, 16, seed=0, samples=8),
        find_regression_target(layer, model, model, traced),
    )
    assert regression is not None
    halves = requantizer.fits(layer, regression)
    assert sum(half.windows for half in halves) == 4 * 8
    assert len(halves) == 2


def test_a_layer_of_few_columns_sees_as_many_windows_as_the_first_rounding_does() -> None:
    model, data, traced, layer = pointwise(16)
    regression = find_regression_target(layer, model, model, traced)
    assert regression is not None
    halves = SequentialRequantizer(CPU, model, model, [layer], traced, data, 16, seed=0).fits(
        layer, regression
    )
    assert sum(half.windows for half in halves) == data.count * 16 * 16


def test_large_maps_are_seen_of_few_samples_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, traced, layer = pointwise(16)
    regression = find_regression_target(layer, model, model, traced)
    assert regression is not None
    monkeypatch.setattr(moments, "_FEWEST_WINDOWS", 1)  # private: no map of a test is large
    monkeypatch.setattr(requantize, "SAMPLES_OF_LARGE_MAPS", 12)
    every, needed = 12 * 16 * 16, 12 * 12 * 256  # windows of 12 samples, and the products of as many
    # Where these are twice as many as it needs it sees them all, otherwise every second place along each axis of all samples.
    for products, expected in ((needed // 2, every), (needed, 64 * 8 * 8)):
        monkeypatch.setattr(requantize, "_CHEAP_PRODUCTS", products)  # private: as above
        requantizer = SequentialRequantizer(
            CPU, model, model, [layer], traced, data, 16, seed=0, augmentations=Augmentations(-1)
        )
        halves = requantizer.fits(layer, regression)
        assert len(halves) == 2
        assert sum(half.windows for half in halves) == expected


@pytest.mark.parametrize(("count", "halves"), [(1, 1), (2, 2), (7, 2), (16, 2)])
def test_few_samples_are_in_two_halves_too(count: int, halves: int) -> None:
    model, data, traced, layer = pointwise(16)
    regression = find_regression_target(layer, model, model, traced)
    assert regression is not None
    requantizer = SequentialRequantizer(CPU, model, model, [layer], traced, data.some(count, 0), 16, seed=0)
    assert len(requantizer.fits(layer, regression)) == halves


def test_augmentations_of_one_sample_are_in_one_half_and_count_once() -> None:
    model, data, traced, layer = pointwise(2)
    regression = find_regression_target(layer, model, model, traced)
    assert regression is not None
    requantizer = SequentialRequantizer(
        CPU, model, model, [layer], traced, data, 16, seed=0, augmentations=Augmentations(-1)
    )
    both = requantizer.fits(layer, regression)
    plain = SequentialRequantizer(CPU, model, model, [layer], traced, data, 16, seed=0).fits(
        layer, regression
    )
    # A map of 1 x 1 kernels has the same windows whichever way it is turned.
    for some, other in zip(both, plain, strict=True):
        assert some.windows == other.windows
        assert np.allclose(some.gram, other.gram, rtol=1e-5)


def fit_of(inputs: Array, targets: Array) -> Fit:
    """The sums over windows [n, D] and their targets [n, rows]."""
    return Fit(
        (inputs.T @ inputs)[None],
        (targets.T @ inputs)[None],
        inputs.sum(0)[None],
        targets.sum(0)[None],
        len(inputs),
    )


def test_halves_that_contradict_each_other_are_damped_more() -> None:
    """Targets that follow the inputs ask for the least damping, noise for the most."""
    rng = np.random.default_rng(0)
    rows, mixed = rng.standard_normal((1, 3, 20)).astype(np.float32), rng.standard_normal((20, 20))

    def half(noise: float) -> Fit:
        inputs = rng.standard_normal((400, 20)) @ mixed
        targets = inputs @ (rows[0].T + 0.5) + noise * rng.standard_normal((400, 3))
        return fit_of(inputs, targets)

    assert best_damping(rows, [half(0.0), half(0.0)]) == min(DAMPINGS)
    assert best_damping(rows, [half(500.0), half(500.0)]) == max(DAMPINGS)
    assert best_damping(rows, [half(500.0)]) == min(DAMPINGS)


def test_the_damping_is_judged_on_the_other_half() -> None:
    """Few noisy windows: what is fitted to one half best is not what gives the other's targets."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, 3, 8)).astype(np.float32)

    def half() -> Fit:
        inputs = rng.standard_normal((12, 8))
        return fit_of(inputs, inputs @ rows[0].T + 20 * rng.standard_normal((12, 3)))

    assert best_damping(rows, [half(), half()]) > min(DAMPINGS)


def test_the_damping_is_judged_both_ways() -> None:
    """Few noisy windows against many clean ones: only what is fitted to the few asks for much of it."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, 3, 8)).astype(np.float32)

    def half(windows: int, noise: float) -> Fit:
        inputs = rng.standard_normal((windows, 8))
        return fit_of(inputs, inputs @ (rows[0].T + 0.5) + noise * rng.standard_normal((windows, 3)))

    halves = [half(400, 0.0), half(12, 20.0)]
    assert best_damping(rows, halves) == best_damping(rows, halves[::-1]) == max(DAMPINGS)


@pytest.mark.parametrize("windows", [6, 40])
def test_rows_are_drawn_to_those_they_come_from_as_the_moments_are_to_their_diagonal(windows: int) -> None:
    rng = np.random.default_rng(windows)
    rows, inputs = rng.standard_normal((1, 3, 8)).astype(np.float32), rng.standard_normal((windows, 8)) + 1
    fit = fit_of(inputs, rng.standard_normal((windows, 3)))
    (share,), (diagonal,) = shrinkage(fit.moments), diagonals(fit.gram)
    gram, cross = fit.gram[0], fit.cross[0]
    drawn = ((1 - share) * gram + share * diagonal) / (1 - share)
    whole = drawn + 0.01 * gram.diagonal().mean() * np.eye(8)
    expected = np.linalg.solve(whole, (cross + rows[0] @ (whole - gram)).T).T
    assert share > 0.01
    np.testing.assert_allclose(solved_rows(rows, fit, 0.01)[0], expected)


def test_a_constant_input_goes_with_no_target_where_a_bias_takes_up_the_means() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((100, 3)), rng.standard_normal((100, 2))
    inputs[:, 1] = 7.0
    fit = fit_of(inputs, targets)
    fit.cross[0, 0, 1] += 1e-3  # as sums in single precision may leave
    found = fit.centred().cross[0]
    assert not found[:, 1].any()
    kept = (targets - targets.mean(axis=0)).T @ (inputs - inputs.mean(axis=0))
    np.testing.assert_allclose(found[:, [0, 2]], kept[:, [0, 2]])


def test_maps_are_left_as_they_are_where_few_of_their_windows_are_seen() -> None:
    model, data, traced, layer = pointwise(2)
    for few, requantizes in ((47, False), (48, True), (64, True)):
        requantizer = SequentialRequantizer(CPU, model, model, [layer], traced, data, 16, seed=0, samples=few)
        assert (requantizer.requantize(layer, 3) is not None) is requantizes
    part = data.some(20, 0)
    assert (
        SequentialRequantizer(CPU, model, model, [layer], traced, part, 16, seed=0).requantize(layer, 3)
        is not None
    )  # all there are


def test_the_first_roundings_stay() -> None:
    model, data = network(RESIDUAL, SHAPES), samples(4, 8, 8)
    layers, before, after = rounded(model, data, 3)
    kept = {layer.name: before.quantized(layer, 3).codes.copy() for layer in layers}
    assert any(not np.array_equal(kept[la.name], after.quantized(la, 3).codes) for la in layers)
    assert all(np.array_equal(kept[la.name], before.quantized(la, 3).codes) for la in layers)


def test_the_regression_target_of_a_layer_before_a_sum() -> None:
    model, data = network(RESIDUAL, SHAPES), samples(4, 8, 8)
    traced = trace(CPU, model, next(iter(data.batches(16))).feeds)
    targets = {la.weight: find_regression_target(la, model, model, traced) for la in layers_of(model, traced)}
    found = {weight: (a.tensor, a.less, a.includes_bias) for weight, a in targets.items() if a is not None}
    assert found == {"wa": ("a", None, True), "wb": ("y", "s", True), "ws": ("y", "b", False)}


def test_no_regression_target_where_a_gemm_scales_or_a_weight_is_shared() -> None:
    scaled = GEMM.replace("<transB = 1>", "<transB = 1, alpha = 2.0>")
    model = network(scaled, GEMM_SHAPES)
    traced = trace(CPU, model, {"x": np.ones((1, 12), np.float32)})
    first = next(la for la in layers_of(model, traced) if la.weight == "w1")
    assert find_regression_target(first, model, model, traced) is None
    shared = network(RESIDUAL.replace("Conv (r, ws)", "Conv <pads = [1, 1, 1, 1]> (r, wb)"), SHAPES)
    traced = trace(CPU, shared, {"x": np.ones((1, 4, 8, 8), np.float32)})
    layer = next(la for la in layers_of(shared, traced) if la.weight == "wb")
    assert find_regression_target(layer, shared, shared, traced) is None


def test_no_regression_target_where_no_data_reach_the_layer() -> None:
    """Its one row would be held against the sum's, one a sample."""
    text = """<ir_version: 8, opset_import: ["" : 13]> net (float[n, 4, 8, 8] x) => (float[n, 6, 8, 8] y) {
        a = Conv (k, wa)  b = Conv (x, wb)  y = Add (a, b) }"""
    model = network(text, {"k": (1, 4, 8, 8), "wa": (6, 4, 1, 1), "wb": (6, 4, 1, 1)})
    traced = trace(CPU, model, {"x": np.ones((1, 4, 8, 8), np.float32)})
    targets = {la.weight: find_regression_target(la, model, model, traced) for la in layers_of(model, traced)}
    assert targets["wa"] is None
    assert targets["wb"] is not None
    rounded(model, samples(4, 8, 8), 3)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_channel_of_zeros_stays_one(bits: int) -> None:
    """Nothing but its bias stands behind it: what is left of the target is rounding noise."""
    model = network(RESIDUAL, SHAPES)
    for initializer in model.graph.initializer:
        if initializer.name in {"wa", "wb"}:
            values = numpy_helper.to_array(initializer).copy()
            values[1] = 0
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    layers, _, after = rounded(model, samples(4, 8, 8), bits)
    for layer in layers[:2]:
        found = after.quantized(layer, bits)
        assert not found.codes[1].any()
        assert found.scale[1] == 1
