"""The price of rounded inputs, against the whole network with that input rounded."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxmpq.data import Batch
from onnxmpq.metrics.choose_metric import choose_metric
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.sensitivity.noise import activation_losses, with_noise
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import range_of, rounded
from onnxmpq.values.costs import CostTable
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option

RUNTIME = Runtime("cpu", 1)
RNG = np.random.default_rng(0)
MODEL = model_of(
    """g (float[n, 4, 6, 6] x) => (float[n, 5] y) {
        a = Conv (x, w)
        r = Relu (a)
        b = Conv (r, u)
        p = GlobalAveragePool (b)
        f = Flatten (p)
        y = MatMul (f, m)
    }""",
    w=RNG.standard_normal((4, 4, 1, 1)).astype(np.float32),
    u=RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    m=RNG.standard_normal((4, 5)).astype(np.float32),
)
IMAGES = RNG.standard_normal((6, 4, 6, 6)).astype(np.float32)
WEIGHTS = {i.name: numpy_helper.to_array(i) for i in MODEL.graph.initializer}


def batches(size: int) -> Iterator[Batch]:
    for start in range(0, len(IMAGES), size):
        yield Batch({"x": IMAGES[start : start + size]}, None, size)


def candidate(layer: Layer, bits: int) -> dict[str, Any]:
    assert bits == layer.float_bits
    return {layer.weight: WEIGHTS[layer.weight]}


@pytest.mark.parametrize("coarse", [range_of(-1, 1), range_of(-0.02, 0.01)])
def test_the_loss_is_that_of_the_network_whose_layer_reads_the_rounded_tensor(coarse: Any) -> None:
    traced = trace(RUNTIME, MODEL, {"x": IMAGES[:1]})
    layers = discover(import_graph(MODEL), {name: t.shape for name, t in traced.items()})
    metric = choose_metric(MODEL, {"y": [np.zeros((1, 5))]}, "kl")
    data: Any = SimpleNamespace(count=len(IMAGES), batches=batches, source=SimpleNamespace(step=None))
    probe = Probe(MODEL, layers, {}, candidate, data, metric, RUNTIME, traced, batch_size=3)
    second = layers[1]
    losses = activation_losses(probe, {second.name: ("r", coarse)})

    session = RUNTIME.session(MODEL)
    before = session.run({"x": IMAGES})
    relu = np.maximum(np.einsum("oi,nihw->nohw", WEIGHTS["w"][:, :, 0, 0], IMAGES), 0)
    rest = model_of(
        """g (float[n, 4, 6, 6] r) => (float[n, 5] y) {
            b = Conv (r, u)
            p = GlobalAveragePool (b)
            f = Flatten (p)
            y = MatMul (f, m)
        }""",
        u=WEIGHTS["u"], m=WEIGHTS["m"],
    )  # fmt: skip
    after = RUNTIME.session(rest).run({"r": rounded(relu.astype(np.float32), coarse)})
    wanted = metric.loss(metric.distance(before, after), metric.weight(before))
    assert losses == {second.name: pytest.approx(wanted, rel=1e-3)}
    assert wanted > 0


def test_noise_is_on_top_of_integer_options_only() -> None:
    table = CostTable(
        {"a": {Option(4, 8): 2.0, Option(32): 0.0}, "b": {Option(4, 8): 1.0}}, "kl", "measured", 1
    )
    assert with_noise(table, {"a": 0.5}).costs == {
        "a": {Option(4, 8): 2.5, Option(32): 0.0},
        "b": {Option(4, 8): 1.0},
    }


def test_integer_activations_of_any_width_have_the_noise() -> None:
    table = CostTable({"a": {Option(4, 4): 2.0, Option(4): 1.0}}, "kl", "measured", 1)
    assert with_noise(table, {"a": 0.5}).costs == {"a": {Option(4, 4): 2.5, Option(4): 1.0}}
