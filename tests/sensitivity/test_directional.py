"""Slopes against what they stand for: the change of each sample's loss under a small change of one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq import testing
from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.errors import DataError
from onnxmpq.normalize.prepare import prepare
from onnxmpq.passes.expose.emit_loss import Loss
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity import directional
from onnxmpq.sensitivity.directional import Objective, counts_samples, slopes
from onnxmpq.sensitivity.methods.first_order import FirstOrder
from onnxmpq.sensitivity.methods.fisher import fisher
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.output_kind import OutputKind

RUNTIME = Runtime("cpu", threads=1)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    values: Array = (RNG.standard_normal(shape) / 2).astype(np.float32)
    return values


def network() -> onnx.ModelProto:
    """All kinds of layers; smooth, so that differences are slopes."""
    return model_of(
        """g (float[N, 4, 6, 6] x) => (float[N, 3] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Tanh (a)
            c = Conv <group = 4, strides = [2, 2], pads = [1, 1, 1, 1]> (b, w2, b2)
            d = Tanh (c)
            e = ConvTranspose (d, w3)
            f = Conv <group = 2> (e, w4)
            g0 = Tanh (f)
            h = ReduceMean <axes = [2], keepdims = 0> (g0)
            i = MatMul (h, w5)
            j = Tanh (i)
            k = Flatten (j)
            y = Gemm <transB = 1> (k, w6, b6)
        }""",
        w1=normal(4, 4, 3, 3), b1=normal(4), w2=normal(4, 1, 3, 3), b2=normal(4), w3=normal(4, 4, 2, 2),
        w4=normal(4, 2, 2, 2), w5=normal(3, 5), w6=normal(3, 20), b6=normal(3),
    )  # fmt: skip


def samples(count: int, shape: tuple[int, ...] = (4, 6, 6), **more: Array) -> Dataset:
    specs = [InputSpec("x", np.dtype(np.float32), (None, *shape))]
    return open_data({"x": normal(count, *shape), **more}, specs, samples=None)


def probe_of(
    model: onnx.ModelProto, data: Dataset, shift: Callable[[str, Array], Array], batch_size: int = 3
) -> Probe:
    feeds = next(data.batches(1)).feeds
    prepared = prepare(RUNTIME, model, feeds, integer=False, batchable=True)
    constants = {i.name: numpy_helper.to_array(i) for i in prepared.model.graph.initializer}

    def candidate(layer: Layer, bits: int) -> Mapping[str, Array]:
        names = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        return {
            name: (constants[name] + shift(name, constants[name]) / bits).astype(np.float32) for name in names
        }

    options = {layer.name: (Option(2), Option(4)) for layer in prepared.layers}
    return Probe(
        prepared.model,
        prepared.layers,
        options,
        candidate,
        data,
        prepared.metric,
        RUNTIME,
        prepared.traced,
        batch_size,
    )


def small(_name: str, values: Array) -> Array:
    return 2**-7 * np.random.default_rng(values.size).standard_normal(values.shape)


def changed(probe: Probe, constants: Mapping[str, Array]) -> onnx.ModelProto:
    own = onnx.ModelProto()
    own.CopyFrom(probe.model)
    for tensor in own.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return own


@pytest.mark.parametrize("batch_size", [1, 3])
def test_slopes_are_changes_of_each_samples_loss(batch_size: int) -> None:
    probe = probe_of(network(), samples(7), small, batch_size)
    factors = RNG.standard_normal(3).astype(np.float32)

    def targets(batch: Any) -> dict[str, Array]:
        return {"y": np.tile(factors, (batch.count, 1))}

    found: dict[str, list[Array]] = {}
    for name, _, values in slopes(
        probe, lambda: Objective(Loss.PROJECTION, {"y": OutputKind.VALUES}, targets)
    ):
        found.setdefault(name, []).append(values)
    feeds = next(probe.data.batches(7)).feeds
    before = RUNTIME.session(probe.model).run(feeds)["y"] @ factors
    assert len(found) == 6
    for layer in probe.layers:
        values = np.concatenate(found[layer.name])
        assert values.shape == (7, 2)
        np.testing.assert_allclose(values[:, 0], 2 * values[:, 1], rtol=1e-3, atol=1e-6)
        after = RUNTIME.session(changed(probe, probe.candidate(layer, 4))).run(feeds)["y"] @ factors
        np.testing.assert_allclose(values[:, 1], after - before, atol=0.05 * np.abs(after - before).max())


def test_samples_of_another_size_are_refused() -> None:
    model = model_of(
        """g (float[N, 2, H, H] x) => (float[N, 3] y) {
            a = Conv (x, w) b = GlobalAveragePool (a) y = Flatten (b) }""",
        w=normal(3, 2, 2, 2),
    )
    spec = [InputSpec("x", np.dtype(np.float32), (None, 2, None, None))]

    def source() -> Any:
        for size in (4, 4, 5):
            yield {"x": normal(1, 2, size, size)}

    data = open_data(source, spec, samples=None)
    probe = probe_of(model, data, small, 1)
    objective = Objective(
        Loss.PROJECTION, {"y": OutputKind.VALUES}, lambda b: {"y": np.ones((b.count, 3), np.float32)}
    )
    with pytest.raises(DataError, match=r"\[1, 2, 5, 5\], others \[1, 2, 4, 4\]"):
        list(slopes(probe, lambda: objective))


def hold(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    # private: no network of a test is too large for one pass
    monkeypatch.setattr(directional, "_BYTES_A_PASS", most)


def test_what_is_too_large_for_one_pass_goes_by_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = testing.probe_of(classifier(), labelled(classifier()))
    together = FirstOrder()(probe)
    most = max(layer.params for layer in probe.chosen)
    hold(monkeypatch, 2 * 4 * most)  # two of three widths of the largest layer
    apart = FirstOrder()(probe)
    assert apart.evaluations > together.evaluations == 1
    for name, costs in together.costs.items():
        assert apart.costs[name] == pytest.approx(costs, rel=1e-5)


def test_progress_never_falls_from_pass_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 1)  # each width of each layer in a pass of its own
    calls: list[tuple[int, int]] = []
    probe = testing.probe_of(classifier(), labelled(classifier()))
    FirstOrder()(replace(probe, progress=lambda *call: calls.append(call)))
    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    assert calls[-1] == (12 * 64, 12 * 64)


def test_samples_are_told_apart_where_they_are_all_that_is_free() -> None:
    assert counts_samples((None, 3, 4))
    assert not counts_samples((None, None))
    assert not counts_samples((2, None))
    assert not counts_samples(())


def test_passes_by_widths_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = testing.probe_of(classifier(), labelled(classifier()))
    together = fisher(probe)
    hold(monkeypatch, 1)
    apart = fisher(probe)
    assert apart.evaluations == sum(len(options) for options in probe.options.values())
    for name, costs in together.costs.items():
        assert apart.costs[name] == pytest.approx(costs, rel=1e-5)
