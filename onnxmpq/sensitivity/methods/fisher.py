"""Sensitivity by one backward run: the loss to second order, by the Fisher metric of the outputs.

A small change D of a weight moves the network's output distribution p by

    KL(p || p_D) = 1/2 D^T J^T F J D + O(D^3)

with J the derivative of the logits and F the Fisher matrix of the distribution: the gradient of this KL is zero at
the float network, and its Hessian is the generalised Gauss-Newton matrix J^T F J (Martens, arXiv 1412.1193, 9.2).
In the coordinates 2 sqrt(p) the Fisher metric is the Euclidean one. With a random vector v, E[v v^T] = 1 on the
plane tangent to the sphere on which sqrt(p) lies,

    D^T J^T F J D = E_v <grad_W L_v, D>^2,    L_v = <v, 2 sqrt(p)>

(Hutchinson's estimate). One draw a sample (`EmitTangents`) makes

    cost[layer][width] = 1/2 mean over samples of <dL_v/dY, layer(X, D)>^2

gradient x output error, squared, with all products within the layer, in nats and without labels; an estimate of
what `measured` measures by KL as it is, without a temperature. v is a sum with random signs of an orthonormal
basis (Helmert's, weighted by p, likely classes first): its first vector weighs the two likeliest classes against
each other, where nearly all of the divergence is, so that little is left to chance. On ResNet-20, 128 images, the
estimate spreads by 11 % around its mean, plain random signs by 45 %, labels drawn from p by 60 %. For outputs
that are no distributions L_v = <v, y>, v of random signs, stands for the squared error, normalised as in
`onnxmpq.metrics.metric`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxmpq.data import Batch
from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import Sums
from onnxmpq.passes.expose.emit_loss import Loss
from onnxmpq.sensitivity.directional import Objective, Targets, by_option, passes, slopes, widths_of
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Shape
from onnxmpq.values.channels import Channels
from onnxmpq.values.costs import CostTable
from onnxmpq.values.output_kind import OutputKind


def fisher(probe: Probe) -> CostTable:
    """Half the mean square of the slopes along random directions of the outputs, in nats or as normalised squared error.

    Costs a forward and a backward run of the samples, and for each layer one weight gradient a sample, or a
    product of its input with each width's rounding error, whichever is less work: some forward runs in all.

    Raises OptionError for a model without an output to differentiate and for a metric of the user's, ModelError and DataError as `slopes` does.
    """
    if not probe.metric.kinds:
        raise OptionError(
            "method fisher differentiates outputs of floating-point numbers, and this model has none; use "
            "--method measured"
        )
    if probe.metric.own is not None:
        raise OptionError(
            f"method fisher differentiates the outputs, and the metric {probe.metric.name} is a function of yours; use "
            "--method measured"
        )
    totals: dict[str, Sums] = {name: np.zeros(len(bits)) for name, bits in widths_of(probe).items()}
    metric = probe.metric.plain
    objective = (
        partial(_of_distributions, probe)
        if metric.name == "kl"
        else partial(_of_values, probe, _lengths(probe))
    )
    for layer, columns, found in slopes(probe, objective):
        totals[layer][columns] += np.square(found).sum(axis=0)
    return CostTable(by_option(probe, totals), metric.name, "fisher", probe.data.count, passes(probe))


def _of_distributions(probe: Probe) -> Objective:
    """Random tangents at each sample's outputs, of a length that makes squared slopes add up to the mean KL."""
    kinds = probe.metric.kinds
    draw = _signs_of(probe, dict.fromkeys(kinds, math.sqrt(0.5 / (probe.data.count * len(kinds)))))

    def targets(batch: Batch) -> Targets:
        return {name: signs.reshape(len(signs), -1) for name, signs in draw(batch).items()}

    return Objective(Loss.PROJECTION, kinds, targets, tangents=True)


def _of_values(probe: Probe, lengths: Mapping[str, float | Sums]) -> Objective:
    """Random signs, of lengths that make squared slopes add up to the mean normalised squared error."""
    return Objective(Loss.PROJECTION, dict.fromkeys(lengths, OutputKind.VALUES), _signs_of(probe, lengths))


def _signs_of(probe: Probe, lengths: Mapping[str, float | Sums]) -> Callable[[Batch], Targets]:
    """What draws random signs, of a length for each output (or its channels), in the shapes of a batch's outputs."""
    rng = np.random.default_rng(probe.seed)

    def drawn(output: str, length: float | Sums, batch: Batch) -> NDArray[np.floating]:
        traced = probe.traced[output]
        shape = traced.shape if batch.count == 1 else (batch.count, *traced.shape[1:])
        signs = rng.choice(np.array([-1, 1], traced.dtype), shape)
        return np.asarray(signs * np.asarray(length, traced.dtype))

    return lambda batch: {name: drawn(name, length, batch) for name, length in lengths.items()}


def _lengths(probe: Probe) -> dict[str, float | Sums]:
    """1 / sqrt(outputs x groups x sum of squares) of each output that is not zero throughout, by group of channels."""
    metric, names = probe.metric, list(probe.metric.kinds)
    weight: Sums = np.zeros(metric.terms)
    session = probe.runtime.session(probe.model, spin=False)
    for batch in probe.data.batches(probe.batch_size):
        weight += metric.weight(session.run(batch.feeds))
    parts = dict(zip(names, metric.by_output(weight), strict=True))
    counted = sum(bool((part > 0).any()) for part in parts.values())
    lengths = {}
    for name, part in parts.items():
        if (part > 0).any():
            a_group = np.where(part > 0, part, np.inf) * counted * int((part > 0).sum())
            lengths[name] = _spread(1 / np.sqrt(a_group), metric.channels.get(name), probe.traced[name].shape)
    return lengths


def _spread(by_group: Sums, channels: Channels | None, shape: Shape) -> float | Sums:
    """Of each group's channels, in the shape that broadcasts along them."""
    if channels is None or len(by_group) == 1:
        return float(by_group[0])
    by_channel = np.zeros(shape[channels.axis])
    for value, group in zip(by_group, channels.groups, strict=True):
        by_channel[list(group)] = value
    return by_channel.reshape([-1 if axis == channels.axis else 1 for axis in range(len(shape))])
