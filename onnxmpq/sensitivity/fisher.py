"""Sensitivity by one backward run: the loss to second order, by the Fisher metric of the outputs.

A small change D of a weight moves the network's output distribution p by

    KL(p || p_D) = 1/2 D^T J^T F J D + O(D^3)

with J the derivative of the logits and F the Fisher matrix of the distribution: the gradient of this KL is zero at
the float network, and its Hessian is the generalised Gauss-Newton matrix J^T F J (Martens, arXiv 1412.1193, 9.2).
In the coordinates 2 sqrt(p) the Fisher metric is the Euclidean one, so with random signs s, E[s s^T] = 1,

    D^T J^T F J D = E_s <grad_W L_s, D>^2,    L_s = <s, 2 sqrt(p)>

(Hutchinson's estimate). One draw of signs a sample makes

    cost[layer][width] = 1/2 mean over samples of <dL_s/dY, layer(X, D)>^2

gradient x output error, squared, with all products within the layer, in nats and without labels; an estimate of what
`measured` measures. Labels drawn from p have the same expectation, but where the network is sure of its class nearly
all of them have no gradient: signs vary less. For outputs that are no distributions L_s = <s, y> stands for the
squared error, normalised as in `onnxmpq.metrics`.
"""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.data import Batch
from onnxmpq.metrics import OutputKind, Sums
from onnxmpq.passes.emit_loss import Loss
from onnxmpq.plan import CostTable
from onnxmpq.sensitivity.directional import Objective, Targets, slopes, widths_of
from onnxmpq.sensitivity.probe import Probe


def fisher(probe: Probe) -> CostTable:
    """Half the mean square of the slopes along random directions of the outputs, in the metric's own units.

    Costs a forward and a backward run of the samples, and a product of each layer's input with each width's
    rounding error: a fraction of a forward run for each width, whatever the number of layers.

    Raises ModelError and DataError as `slopes` does.
    """
    widths = widths_of(probe)
    totals: dict[str, Sums] = {name: np.zeros(len(bits)) for name, bits in widths.items()}
    for found in slopes(probe, _objective(probe)):
        totals[found.layer] += np.square(found.values).sum(axis=0)
    costs = {
        name: {option: float(totals[name][bits.index(option.weight_bits)]) for option in probe.options[name]}
        for name, bits in widths.items()
    }
    return CostTable(costs, probe.metric.name, "fisher", probe.data.count)


def _objective(probe: Probe) -> Objective:
    """Random signs for each outcome, of a size that makes squared slopes add up to the metric."""
    rng = np.random.default_rng(probe.seed)
    is_kl = probe.metric.name == "kl"
    kinds = {name: kind if is_kl else OutputKind.VALUES for name, kind in probe.metric.kinds.items()}
    sizes = _sizes(probe)

    def targets(batch: Batch) -> Targets:
        return {
            name: (rng.choice([-1, 1], _outcomes(probe, name, kind, batch)) * sizes[name]).astype(_dtype(probe, name))
            for name, kind in kinds.items()
        }

    return Objective(Loss.PROJECTION, kinds, targets)


def _sizes(probe: Probe) -> dict[str, float]:
    """The length of one sign: the square root of what a squared slope of an output counts."""
    names = list(probe.metric.kinds)
    if probe.metric.name == "kl":
        return dict.fromkeys(names, math.sqrt(0.5 / (probe.data.count * len(names))))
    weight: Sums = np.zeros(len(names))
    session = probe.runtime.session(probe.model)
    for batch in probe.data.batches(probe.batch_size):
        weight += probe.metric.weight(session.run(batch.feeds))
    counted = max(1, int((weight > 0).sum()))
    return {n: math.sqrt(1 / (w * counted)) if w > 0 else 0.0 for n, w in zip(names, weight, strict=True)}


def _outcomes(probe: Probe, output: str, kind: OutputKind, batch: Batch) -> tuple[int, ...]:
    """The shape of the target: [N, outcomes] of a distribution, else that of the output."""
    one = probe.traced[output].shape
    many = batch.count if batch.count > 1 else one[0]
    if kind is OutputKind.VALUES:
        return (many, *one[1:])
    return (many, one[1] * (2 if kind is OutputKind.INDEPENDENT else 1))


def _dtype(probe: Probe, output: str) -> np.dtype[np.floating]:
    return np.dtype(np.float16 if probe.traced[output].elem_type == 10 else np.float32)
