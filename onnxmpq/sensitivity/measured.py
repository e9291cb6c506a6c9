"""Sensitivity measured: the loss of the network with one layer at one width and all others in float.

    cost[layer][option] = loss(float outputs, outputs with that layer's weight replaced by its candidate)

The weight is the one that would ship at that width, before it is settled behind other quantized layers. Forward runs only, no labels.

A small error's loss grows with its square. Widths above four bits disturb the network so little that the loss is read off
the weight's squared error, from that of the widest width that is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from onnxmpq.chain import Chain
from onnxmpq.engine import Array
from onnxmpq.metrics import Sums
from onnxmpq.plan import CostTable
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.tidy import tidy
from onnxmpq.spec import Layer

_FULLY_MEASURED = 4  # bits

Losses = dict[tuple[str, int], float]  # by layer and width


def measured(probe: Probe) -> CostTable:
    """Measure every layer that has a choice at its widths up to four bits, in the metric's own units.

    Costs about half a forward of the samples for each layer and width, since a changed layer cannot change
    what comes before it.
    """
    layers = [layer for layer in probe.layers if layer.name in probe.options]
    asked = {layer.name: sorted({o.weight_bits for o in probe.options[layer.name]}) for layer in layers}
    widths = {name: [b for b in bits if b <= max(_FULLY_MEASURED, bits[0])] for name, bits in asked.items()}
    chain = Chain(probe.runtime, probe.model, layers, probe.traced)
    distance = {name: np.zeros((len(bits), len(probe.metric.kinds))) for name, bits in widths.items()}
    weight: Sums = np.zeros(len(probe.metric.kinds))
    total = math.ceil(probe.data.count / probe.batch_size) * len(layers)
    done = 0
    for batch in probe.data.batches(probe.batch_size):
        reference = chain.outputs(batch.feeds)
        weight += probe.metric.weight(reference)
        for step in chain.walk(batch.feeds):
            for row, bits in enumerate(widths[step.layer.name]):
                outputs = step.outputs(dict(probe.candidate(step.layer, bits)))
                distance[step.layer.name][row] += probe.metric.distance(reference, outputs)
            done += 1
            probe.progress(done, total)
    losses = {
        (name, bits): probe.metric.loss(distance[name][row], weight)
        for name in widths
        for row, bits in enumerate(widths[name])
    }
    # A width that makes the network give no numbers is the worst there is.
    worst = 10 * max((loss for loss in losses.values() if math.isfinite(loss)), default=0.1)
    finite = {key: loss if math.isfinite(loss) else worst for key, loss in losses.items()}
    finite |= _read_off(probe, layers, asked, finite)
    costs = {name: {o: finite[name, o.weight_bits] for o in probe.options[name]} for name in asked}
    return tidy(CostTable(costs, probe.metric.name, "measured", probe.data.count, len(losses)))


def _read_off(
    probe: Probe, layers: Sequence[Layer], widths: Mapping[str, Sequence[int]], losses: Losses
) -> Losses:
    """The losses at the widths that were not measured."""
    weights = {i.name: i for i in probe.model.graph.initializer}
    found = {}
    for layer in layers:
        exact = numpy_helper.to_array(weights[layer.weight])

        def error(bits: int, layer: Layer = layer, exact: Array = exact) -> float:
            rounded = probe.candidate(layer, bits)[layer.weight]
            return float(np.square(rounded - exact, dtype=np.float64).sum())

        last = max(bits for name, bits in losses if name == layer.name)
        for bits in [bits for bits in widths[layer.name] if bits > last]:
            ratio = error(bits) / error(last) if error(last) > 0 else 0.0
            found[layer.name, bits] = losses[layer.name, last] * ratio
    return found
