"""How far outputs are from the reference: sums that add up over batches.

A loss is the mean over the graph outputs of `distance / weight`, both summed over all batches first:

    kl        distance = sum over samples of KL(reference || output) in nats,   weight = number of samples
    soft-kl   the same of distributions at a temperature of 4, times its square
    nse       distance = sum of squared differences,                            weight = sum of squared reference values

Of images that it was trained on a network is sure, and their KL is that of a few it is not sure of: a poor judge of what
others will lose. A temperature (Hinton, Vinyals, Dean, arXiv 1503.02531) gives every image and likely class a say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import OptionError
from onnxmpq.values.arrays import Array
from onnxmpq.values.score import OutputKind

Sums = NDArray[np.float64]

METRICS = ("kl", "soft-kl", "nse")
TEMPERATURE = 4.0  # of soft-kl

_TINY = 1e-12  # floor of a probability: a runtime's softmax underflows to zero


_KINDS = {
    "Softmax": OutputKind.PROBABILITIES,
    "LogSoftmax": OutputKind.LOG_PROBABILITIES,
    "Sigmoid": OutputKind.INDEPENDENT,
}
_RECASTING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Metric:
    """The loss of one model: `name` is one of METRICS, `kinds` maps its float outputs to what they hold."""

    name: str
    kinds: Mapping[str, OutputKind]

    @property
    def plain(self) -> Metric:
        """The same without a temperature: what papers call KL."""
        return replace(self, name="kl") if self.name == "soft-kl" else self

    def distance(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> Sums:
        """Distance of one batch, float64 [outputs]."""
        if self.name == "nse":
            return np.array([_squared_error(reference[n], outputs[n]) for n in self.kinds])
        heat = TEMPERATURE if self.name == "soft-kl" else 1.0
        return np.array(
            [kl_divergence(reference[n], outputs[n], kind, heat).sum() for n, kind in self.kinds.items()]
        )

    def weight(self, reference: Mapping[str, Array]) -> Sums:
        """Weight of one batch, float64 [outputs]."""
        if self.name == "nse":
            return np.array([_squares(reference[n]) for n in self.kinds])
        return np.array([float(len(reference[n])) for n in self.kinds])

    @staticmethod
    def loss(distance: Sums, weight: Sums) -> float:
        """The loss of summed distances and weights; outputs that are zero throughout are left out."""
        counted = weight > 0
        return float(np.mean(distance[counted] / weight[counted])) if counted.any() else 0.0


def choose_metric(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], name: str | None = None
) -> Metric:
    """The metric for a model: softened KL if every output is one distribution a sample, else normalised squared error.

    Independent probabilities are compared by their KL as it is: of what is nearly sure `1 - p` tells too little to be
    softened. `shapes` are the traced shapes of the float outputs, `name` (one of METRICS) overrides.
    Raises OptionError when KL is demanded of outputs that are no distributions, and for a name that is none.
    """
    if name not in (None, *METRICS):
        raise OptionError(f"metric {name!r} is not known; choose {', '.join(METRICS)}")
    kinds = {output: output_kind(model, output, shape) for output, shape in shapes.items()}
    values = [output for output, kind in kinds.items() if kind is OutputKind.VALUES]
    if name not in (None, "nse") and (values or not kinds):
        raise OptionError(
            f"--metric {name} needs outputs of shape [N, classes]; {values} of this model are not: use --metric nse"
        )
    if name is None:
        sure = "kl" if OutputKind.INDEPENDENT in kinds.values() else "soft-kl"
        name = "nse" if values or not kinds else sure
    return Metric(name, kinds)


def output_kind(model: onnx.ModelProto, output: str, shape: Sequence[int]) -> OutputKind:
    """What an output of this traced shape holds: [N, classes] (with ones behind) is a distribution."""
    kind = _KINDS.get(_maker(model, output), OutputKind.LOGITS)
    is_vector = len(shape) >= 2 and all(size == 1 for size in shape[2:])
    if not is_vector or (shape[1] < 2 and kind is not OutputKind.INDEPENDENT):
        return OutputKind.VALUES
    return kind


def classifier_output(metric: Metric) -> str | None:
    """The output whose largest value is the class: the only one that holds a distribution, if there is one."""
    names = [n for n, kind in metric.kinds.items() if kind not in (OutputKind.VALUES, OutputKind.INDEPENDENT)]
    return names[0] if len(names) == 1 and len(metric.kinds) == 1 else None


def classes(values: Array) -> Array:
    """Top-1 class of each sample of [N, classes, 1...]."""
    top: Array = values.reshape(len(values), -1).argmax(axis=1)
    return top


def surprise(output: Array, labels: Array, kind: OutputKind) -> Sums:
    """-log p of each sample's label in nats, float64 [N], from an output [N, classes, 1...]."""
    logs = _log_probabilities(output.reshape(len(output), -1).astype(np.float64), kind)
    found: Sums = -np.maximum(logs[np.arange(len(logs)), labels], math.log(_TINY))
    return found


def _maker(model: onnx.ModelProto, tensor: str) -> str:
    """The operator that computes a tensor's values, those that only recast or reshape them passed over."""
    made = {name: node for node in model.graph.node for name in node.output}
    while tensor in made and made[tensor].op_type in _RECASTING:
        tensor = made[tensor].input[0]
    return made[tensor].op_type if tensor in made else ""


def kl_divergence(reference: Array, output: Array, kind: OutputKind, temperature: float = 1.0) -> Sums:
    """KL(reference || output) of each sample in nats, float64 [N], from arrays [N, classes, 1...].

    A temperature divides the logarithms of the probabilities, and its square multiplies the divergence.

    Where the output has another shape (its size depends on the data) every sample has lost what there was to lose:
    log(classes), the divergence of a certain class from equal odds.
    """
    if reference.shape != output.shape:
        lost = temperature**2 * math.log(max(math.prod(reference.shape[1:]), 2))
        return np.full(len(reference), lost)
    if not reference.size:
        return np.zeros(len(reference))
    p, q = (_log_probabilities(a.reshape(len(a), -1).astype(np.float64), kind) for a in (reference, output))
    if temperature != 1:
        floor = _resolved(kind, reference.dtype)
        p, q = (
            _log_probabilities(np.maximum(values, floor) / temperature, OutputKind.LOGITS)
            for values in (p, q)
        )
    p, q = (np.maximum(values, math.log(_TINY)) for values in (p, q))  # masked logits are -inf
    divergence = (np.exp(p) * (p - q)).sum(axis=-1).reshape(len(reference), -1).sum(axis=1)
    positive: Sums = np.maximum(divergence, 0.0) * temperature**2
    return positive


def sharpened(values: Array, kind: OutputKind, factor: float) -> Array:
    """An output [N, classes, 1...] of a network whose logits are `factor` times as large."""
    if kind is OutputKind.LOGITS:
        scaled: Array = values * np.asarray(factor, values.dtype)
        return scaled
    flat = _log_probabilities(values.reshape(len(values), -1).astype(np.float64), kind)
    logs = _log_probabilities(factor * flat, OutputKind.LOGITS).reshape(values.shape)
    found: Array = (np.exp(logs) if kind is OutputKind.PROBABILITIES else logs).astype(values.dtype)
    return found


def _resolved(kind: OutputKind, dtype: np.dtype[Any]) -> float:
    """The log-probability below which an output's type tells no difference, which a temperature would blow up."""
    if kind is OutputKind.PROBABILITIES:
        return math.log(np.finfo(dtype).tiny)
    return math.log(np.finfo(dtype).eps) if kind is OutputKind.INDEPENDENT else -math.inf  # as 1 - p has it


def probabilities(values: Array, kind: OutputKind) -> Sums:
    """What an output [N, classes] of a kind says of each outcome: float64 [N, classes], [N, classes, 2] if independent.

    None is less than 1e-12.
    """
    result: Sums = np.exp(np.maximum(_log_probabilities(values.astype(np.float64), kind), math.log(_TINY)))
    return result


def _log_probabilities(values: Sums, kind: OutputKind) -> Sums:
    """Log-probabilities with the outcomes along the last axis."""
    result = values
    if kind is OutputKind.PROBABILITIES:
        result = np.log(np.maximum(values, _TINY))
    elif kind is OutputKind.INDEPENDENT:
        result = np.log(np.clip(np.stack([values, 1 - values], axis=-1), _TINY, 1.0))
    elif kind is OutputKind.LOGITS:
        shifted = values - values.max(axis=-1, keepdims=True)
        result = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _squared_error(reference: Array, output: Array) -> float:
    """An output whose shape changed (its size depends on the data) has lost all of the reference."""
    if reference.shape != output.shape:
        return _squares(reference)
    return _squares(output - reference.astype(np.float64))


def _squares(values: Array) -> float:
    flat = np.asarray(values, np.float64).ravel()
    return float(flat @ flat)


def signal_to_noise(expected: Array, found: Array) -> float:
    """Signal-to-noise ratio of `found` in dB: infinite where equal, -inf where dtypes or shapes differ.

    Values that are not finite must be the same ones.
    """
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return -math.inf
    if expected.dtype.kind != "f":
        return math.inf if np.array_equal(expected, found) else -math.inf
    finite = np.isfinite(expected)
    if (
        not np.array_equal(expected[~finite], found[~finite], equal_nan=True)
        or not np.isfinite(found[finite]).all()
    ):
        return -math.inf
    signal = expected[finite].astype(np.float64)
    noise = float(np.square(signal - found[finite]).sum())
    power = float(np.square(signal).sum())
    return math.inf if noise == 0 else 10 * math.log10(max(power, np.finfo(float).tiny) / noise)
