"""Orthogonality: the properties of the matrix, on real features, and what follows from it."""

from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_alignment import ALIGNMENT, EmitAlignment
from onnxmpq.sensitivity.methods.ompq import Ompq, as_published, importance, ompq, orthogonality
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, model_of, probe_of, run
from onnxmpq.values.costs import CostTable, Trajectory

TENSORS = ("b", "e", "r", "y")


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), {"x": labelled(classifier())["x"]})


def test_the_matrix_is_symmetric_one_on_the_diagonal_and_within_zero_and_one(probe: Probe) -> None:
    orm, samples = Ompq(batches=2).measure(probe, TENSORS)
    assert samples == 64
    assert np.array_equal(orm, orm.T)
    assert np.array_equal(np.diag(orm), np.ones(4))
    assert orm.min() >= 0
    assert orm.max() <= 1
    assert orm[0, 1] > orm[0, 3]  # neighbours are alike


def test_what_the_graph_sums_needs_no_mending(probe: Probe) -> None:
    """Symmetric, and no ratio above one (Cauchy and Schwarz), before the matrix is made exactly so."""
    graph = import_graph(probe.model)
    EmitAlignment(TENSORS)(graph)
    feeds = next(probe.data.batches(64)).feeds
    sums = run(export_model(graph, probe.model), feeds)[ALIGNMENT].astype(np.float64)
    norms = np.sqrt(np.diag(sums))
    np.testing.assert_allclose(sums, sums.T, rtol=1e-5)
    ratios = sums / np.outer(norms, norms)
    assert ratios.min() >= -1e-6
    assert ratios.max() <= 1 + 1e-6
    np.testing.assert_allclose(ratios, orthogonality(sums), atol=1e-5)


def test_scaling_a_feature_changes_nothing() -> None:
    text = "g (float[N, 4] x) => (float[N, 3] y) { h = MatMul (x, a) r = Relu (h) s = Mul (r, c) y = MatMul (s, b) }"
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (5, 3)))
    x = {"x": rng.standard_normal((32, 4)).astype(np.float32)}
    orms = []
    for scale in (1.0, 37.0):
        model = model_of(text, a=a, b=b / np.float32(scale), c=np.full(1, scale, np.float32))
        probe = probe_of(model, x)
        tensors = tuple(
            n.output[0] for n in probe.model.graph.node if n.op_type in {"Mul", "MatMul", "Gemm", "Relu"}
        )
        orms.append(ompq.measure(probe, tensors)[0])
    np.testing.assert_allclose(orms[0], orms[1], rtol=1e-5)


def test_the_matrix_is_linear_cka() -> None:
    rng = np.random.default_rng(1)
    features = [rng.standard_normal((20, d)) for d in (3, 8)]
    centered = [f - f.mean(axis=0) for f in features]
    grams = np.array([(f @ f.T).ravel() for f in centered])
    x, y = centered
    cka = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert orthogonality(grams @ grams.T)[0, 1] == pytest.approx(cka)


def test_importances_by_hand() -> None:
    orm = np.array([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])  # gamma: 0.5, 1, 0.5
    one, half = np.exp(-0.5), np.exp(-1.0)
    np.testing.assert_allclose(importance(orm, 1.0), [(2 * one + half) / 3, (half + one) / 2, one])
    contrast = importance(orm, None)  # the least theta is a tenth of the largest
    np.testing.assert_allclose(contrast, [2.1 / 3, 1.1 / 2, 1.0])


def test_constant_features_repeat_nothing() -> None:
    np.testing.assert_array_equal(orthogonality(np.diag([0.0, 4.0])), np.eye(2))


def test_costs_are_linear_in_the_width(probe: Probe) -> None:
    found = ompq(probe)
    assert isinstance(found, CostTable)
    assert found.samples == 32
    for options in found.costs.values():
        costs = {option.weight_bits: cost for option, cost in options.items()}
        assert costs[8] == 0
        assert costs[2] / costs[4] == pytest.approx(6 / 4)


def test_as_published_is_all_but_the_projection_of_the_sizes(probe: Probe) -> None:
    found = as_published(probe)
    assert isinstance(found, Trajectory)
    assert size(probe).samples == 0
    params = np.array([layer.params for layer in probe.layers])
    widths = np.array([[option.weight_bits for option in plan.options.values()] for plan in found.plans])
    halved = (widths == 8).sum(axis=0)  # how long each layer stays wide: the larger, the shorter
    assert all(np.diff(halved[np.argsort(params)]) <= 0)
    assert not np.isin(widths, (2, 4, 8), invert=True).any()


def test_one_sample_at_a_time_cannot_be_compared(probe: Probe) -> None:
    with pytest.raises(OptionError, match="one at a time"):
        ompq(replace(probe, batch_size=1))


def test_one_sample_that_is_left_over_is_left_out(probe: Probe) -> None:
    odd = replace(probe, data=probe.data.take(range(33)))
    assert Ompq(images=32, batches=2)(odd).samples == 32


@pytest.mark.parametrize("options", [{"images": 1}, {"batches": 0}, {"beta": np.nan}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"ompq's .* is .*; wanted"):
        Ompq(**options)  # type: ignore[arg-type]
