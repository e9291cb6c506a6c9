from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from cifar_probe import cifar_probe
from shared import DIGITS, needs_shared

from onnxmpq.data import InputSpec, open_data
from onnxmpq.errors import OptionError
from onnxmpq.metrics.choose_metric import choose_metric
from onnxmpq.metrics.metric import Metric
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods import METHODS, Method
from onnxmpq.sensitivity.methods.measured import at_every_width
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import model_of, probe_of
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option

BITS = (2, 3, 4, 5, 6, 8)


def digits(count: int, metric: str | None = None, batch_size: int = 32) -> Probe:
    model, runtime = onnx.load(DIGITS), Runtime("cpu", threads=1)
    (spec,) = runtime.session(model).inputs
    specs = [InputSpec(spec.name, spec.dtype, (None, *spec.shape[1:]))]
    data = open_data(DIGITS.with_suffix(".calib.npz"), specs, samples=count)
    sample = next(data.batches(1)).feeds
    prepared = prepare(runtime, model, sample, integer=False, batchable=True, metric=metric)
    options = {
        layer.name: tuple(Option(b) for b in BITS) for layer in prepared.layers if layer.reason is None
    }
    constants = Candidates(prepared.model, "nearest").constants
    return Probe(
        prepared.model, prepared.layers, options, constants, data, prepared.metric, runtime, prepared.traced, batch_size
    )  # fmt: skip


def costs(probe: Probe, method: Method) -> np.ndarray:
    """[layers, widths]"""
    table = method(probe)
    assert isinstance(table, CostTable)
    return np.array([[table.costs[name][o] for o in options] for name, options in probe.options.items()])


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    rows = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[:, None] - a)[rows] * np.sign(b[:, None] - b)[rows]))


@pytest.mark.parametrize("metric", ["kl", "nse"])
def test_costs_are_those_of_the_measured_loss(metric: str) -> None:
    probe = digits(256, metric)
    cheap, measured = costs(probe, METHODS["fisher"]), costs(probe, at_every_width)
    ratio = np.median(cheap[:, 2:] / measured[:, 2:])  # from 4 bits up
    assert 0.7 < ratio < 1.4
    assert kendall(cheap[:, 2:].ravel(), measured[:, 2:].ravel()) > 0.8


def costs_of_outputs(metric: str, *factors: float) -> np.ndarray:
    """Costs [outputs, widths] of the layers that make three values, once for each factor and times it; none where it is 0."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3, 3)))
    outputs = [f"y{i}" for i in range(len(factors))]
    products = " ".join(f"{y} = MatMul (x, w{i})" for i, y in enumerate(outputs))
    model = model_of(
        f"g (float[N, 3] x) => ({', '.join(f'float[N, 3] {y}' for y in outputs)}) {{ {products} }}",
        **{f"w{i}": np.float32(factor) * weight for i, factor in enumerate(factors)},
    )
    probe = probe_of(model, {"x": x})
    options = {la.name: probe.options[la.name] for la, f in zip(probe.layers, factors, strict=True) if f}
    chosen = choose_metric(model, {name: [np.zeros((4, 3))] for name in outputs}, metric)
    return costs(replace(probe, metric=chosen, options=options), METHODS["fisher"])


def test_two_distributions_count_half_each() -> None:
    one, two = costs_of_outputs("kl", 1), costs_of_outputs("kl", 1, 1)
    assert two.min() > 0
    np.testing.assert_allclose(two[0], one[0] / 2, rtol=1e-5)


def test_outputs_count_alike_however_large() -> None:
    np.testing.assert_allclose(costs_of_outputs("nse", 1, 1), costs_of_outputs("nse", 1, 4), rtol=1e-5)


def test_an_output_of_zeros_is_not_counted() -> None:
    both, one = costs_of_outputs("nse", 1, 1), costs_of_outputs("nse", 1, 0)
    np.testing.assert_allclose(one[0], 2 * both[0], rtol=1e-5)


def test_an_output_of_one_number_for_all() -> None:
    model = model_of(
        "g (float[N, 3] x) => (float y) { z = MatMul (x, w) y = ReduceMean <keepdims = 0> (z) }",
        w=np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    )
    probe = replace(probe_of(model, {"x": np.ones((4, 3), np.float32)}), batch_size=1)
    assert probe.metric.name == "nse"
    assert costs(probe, METHODS["fisher"]).min() > 0


def test_a_model_without_numbers_to_differentiate_is_refused() -> None:
    model = model_of(
        "g (float[N, 3] x) => (bool[N, 3] y) { z = MatMul (x, w) y = Greater (z, x) }",
        w=np.eye(3, dtype=np.float32),
    )
    with pytest.raises(
        OptionError, match=r"differentiates outputs of floating-point numbers.*--method measured"
    ):
        METHODS["fisher"](
            replace(probe_of(model, {"x": np.ones((4, 3), np.float32)}), metric=Metric("nse", {}))
        )


def test_one_sample_at_a_time_gives_the_same() -> None:
    together, alone = (costs(digits(16, batch_size=size), METHODS["fisher"]) for size in (32, 1))
    np.testing.assert_allclose(together.sum(), alone.sum(), rtol=1)  # other draws, the same expectation


@pytest.mark.slow
@needs_shared
def test_ranks_the_layers_of_resnet56_as_measured() -> None:
    probe = cifar_probe()
    cheap, measured = costs(probe, METHODS["fisher"]), costs(probe, at_every_width)
    for column in range(2, len(BITS)):
        assert kendall(cheap[:, column], measured[:, column]) > 0.8
        assert 0.8 < np.median(cheap[:, column] / measured[:, column]) < 1.3
