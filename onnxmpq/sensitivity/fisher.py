"""Sensitivity by one backward run: the loss to second order, by the Fisher metric of the outputs.

A small change D of a weight moves the network's output distribution p by

    KL(p || p_D) = 1/2 D^T J^T F J D + O(D^3)

with J the derivative of the logits and F the Fisher matrix of the distribution: the gradient of this KL is zero at
the float network, and its Hessian is the generalised Gauss-Newton matrix J^T F J (Martens, arXiv 1412.1193, 9.2).
In the coordinates 2 sqrt(p) the Fisher metric is the Euclidean one. With a random vector v, E[v v^T] = 1 on the
plane tangent to the sphere on which sqrt(p) lies,

    D^T J^T F J D = E_v <grad_W L_v, D>^2,    L_v = <v, 2 sqrt(p)>

(Hutchinson's estimate). One draw a sample makes

    cost[layer][width] = 1/2 mean over samples of <dL_v/dY, layer(X, D)>^2

gradient x output error, squared, with all products within the layer, in nats and without labels; an estimate of what
`measured` measures. v is a sum with random signs of an orthonormal basis (Helmert's, weighted by p, likely classes
first): its first vector weighs the two likeliest classes against each other, where nearly all of the divergence is,
so that little is left to chance. On ResNet-20, 128 images, the estimate spreads by 11 % around its mean, plain random
signs by 45 %, labels drawn from p by 60 %. For outputs that are no distributions L_v = <v, y>, v of random signs,
stands for the squared error, normalised as in `onnxmpq.metrics`.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.data import Batch
from onnxmpq.metrics import OutputKind, Sums, probabilities
from onnxmpq.passes.emit_loss import Loss
from onnxmpq.plan import CostTable
from onnxmpq.sensitivity.directional import Objective, Targets, slopes, widths_of
from onnxmpq.sensitivity.probe import Probe

Floats = NDArray[np.float64]


def fisher(probe: Probe) -> CostTable:
    """Half the mean square of the slopes along random directions of the outputs, in the metric's own units.

    Costs two forward runs and a backward run of the samples, and for each layer one weight gradient a sample, or a
    product of its input with each width's rounding error, whichever is less work: some forward runs in all.

    Raises ModelError and DataError as `slopes` does.
    """
    widths = widths_of(probe)
    totals: dict[str, Sums] = {name: np.zeros(len(bits)) for name, bits in widths.items()}
    objective = _of_distributions(probe) if probe.metric.name == "kl" else _of_values(probe)
    for found in slopes(probe, objective):
        totals[found.layer] += np.square(found.values).sum(axis=0)
    costs = {
        name: {option: float(totals[name][bits.index(option.weight_bits)]) for option in probe.options[name]}
        for name, bits in widths.items()
    }
    return CostTable(costs, probe.metric.name, "fisher", probe.data.count)


def _of_distributions(probe: Probe) -> Objective:
    """Random tangents at each sample's outputs, of a length that makes squared slopes add up to the mean KL."""
    rng = np.random.default_rng(probe.seed)
    session, kinds = probe.runtime.session(probe.model, spin=False), probe.metric.kinds
    length = math.sqrt(0.5 / (probe.data.count * len(kinds)))

    def targets(batch: Batch) -> Targets:
        outputs = session.run(batch.feeds, list(kinds))
        return {
            name: (length * _tangents(outputs[name], kind, rng)).astype(outputs[name].dtype)
            for name, kind in kinds.items()
        }

    return Objective(Loss.PROJECTION, kinds, targets)


def _tangents(output: NDArray[np.floating], kind: OutputKind, rng: np.random.Generator) -> Floats:
    """A random tangent for each sample, [N, outcomes]."""
    p = probabilities(
        output.reshape(len(output), -1), kind
    )  # [N, classes], or [N, classes, 2] if independent
    drawn = random_tangent(p.reshape(-1, p.shape[-1]), rng).reshape(p.shape)
    return drawn if p.ndim == 2 else drawn.transpose(0, 2, 1).reshape(len(output), -1)


def random_tangent(p: Floats, rng: np.random.Generator) -> Floats:
    """Random vectors v [N, classes] with E[v v^T] = 1 - sqrt(p) sqrt(p)^T, from probabilities p > 0 [N, classes].

    With classes in falling order and P_k = p_1 + ... + p_k, the basis vector of class k > 1 is
    -sqrt(P_{k-1} / P_k) at k, and sqrt(p_i p_k / (P_{k-1} P_k)) at each i before it.
    """
    order = np.argsort(-p, axis=1)
    q = np.take_along_axis(p, order, axis=1)
    upto = np.cumsum(q, axis=1)
    before = np.roll(upto, 1, axis=1)
    before[:, 0] = 1.0  # never used: the first class has no vector
    signs = rng.choice([-1.0, 1.0], q.shape)
    signs[:, 0] = 0.0
    weights = signs * np.sqrt(q / (before * upto))
    behind = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1] - weights
    drawn = np.empty_like(q)
    np.put_along_axis(drawn, order, np.sqrt(q) * behind - signs * np.sqrt(before / upto), axis=1)
    return drawn


def _of_values(probe: Probe) -> Objective:
    """Random signs, of a length that makes squared slopes add up to the mean normalised squared error."""
    rng = np.random.default_rng(probe.seed)
    lengths = _lengths(probe)

    def targets(batch: Batch) -> Targets:
        return {
            name: _signs(probe, name, batch, rng) * np.float32(length) for name, length in lengths.items()
        }

    return Objective(Loss.PROJECTION, dict.fromkeys(lengths, OutputKind.VALUES), targets)


def _lengths(probe: Probe) -> dict[str, float]:
    """1 / sqrt(outputs x sum of squares) of each output that is not zero throughout."""
    names = list(probe.metric.kinds)
    weight: Sums = np.zeros(len(names))
    session = probe.runtime.session(probe.model, spin=False)
    for batch in probe.data.batches(probe.batch_size):
        weight += probe.metric.weight(session.run(batch.feeds))
    counted = int((weight > 0).sum())
    return {n: 1 / math.sqrt(w * counted) for n, w in zip(names, weight, strict=True) if w > 0}


def _signs(probe: Probe, output: str, batch: Batch, rng: np.random.Generator) -> NDArray[np.floating]:
    """In the shape and type of the output over a batch."""
    traced = probe.traced[output]
    shape = (traced.shape[0] if batch.count == 1 else batch.count, *traced.shape[1:])
    dtype = np.float16 if traced.elem_type == onnx.TensorProto.FLOAT16 else np.float32
    return rng.choice(np.array([-1, 1], dtype), shape)
