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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import OptionError
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.padding import Padding

Sums = NDArray[np.float64]
T = TypeVar("T", Sums, NDArray[np.bool_])
Own = Callable[[Mapping[str, Array], Mapping[str, Array]], float]

METRICS = ("kl", "soft-kl", "nse")
TEMPERATURE = 4.0  # of soft-kl

_TINY = 1e-12  # floor of a probability: a runtime's softmax underflows to zero


_WHOLE = Channels()


@dataclass(frozen=True, slots=True)
class Metric:
    """The loss of one model: `name` is one of METRICS, `kinds` maps its float outputs to what they hold.

    `channels`: of outputs whose channels differ in scale, or that may be silent, how squared errors are weighed.
    `padding` tells which positions of outputs count. `own` is the user's: from the outputs of both by name, of one run, to one number a row, lower is better.
    """

    name: str
    kinds: Mapping[str, OutputKind]
    channels: Mapping[str, Channels] = field(default_factory=dict)
    own: Own | None = None
    padding: Padding | None = None

    def judged(self, outputs: Mapping[str, Array], feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of a run with NaN, with which nothing is compared, at padded positions [N, positions, values...].

        The user's metric gets them as they are; distributions are one a sample, whatever is padded.
        """
        if self.padding is None or self.own is not None:
            return outputs
        kept = self.padding.kept(feeds)
        values = {name for name, kind in self.kinds.items() if not kind.is_distribution}
        return {name: _hidden(v, kept) if name in values else v for name, v in outputs.items()}

    @property
    def plain(self) -> Metric:
        """The same without a temperature: what papers call KL."""
        return replace(self, name="kl") if self.name == "soft-kl" else self

    @property
    def terms(self) -> int:
        """How many sums a distance and a weight have: one an output, and one a group of its channels; one of the user's."""
        if self.own is not None:
            return 1
        return sum(len(c.groups) for c in self._weighed()) if self.name == "nse" else len(self.kinds)

    def distance(self, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> Sums:
        """Distance of one batch, float64 [terms]. Raises OptionError where the user's metric fails."""
        if self.own is not None:
            return np.array([_own_loss(self.name, self.own, reference, outputs) * _rows(reference)])
        if self.name == "nse":
            weighed = zip(self.kinds, self._weighed(), strict=True)
            return _joined([_squared_error(reference[n], outputs[n], channels) for n, channels in weighed])
        heat = TEMPERATURE if self.name == "soft-kl" else 1.0
        return np.array(
            [kl_divergence(reference[n], outputs[n], kind, heat).sum() for n, kind in self.kinds.items()]
        )

    def weight(self, reference: Mapping[str, Array]) -> Sums:
        """Weight of one batch, float64 [terms]."""
        if self.own is not None:
            return np.array([float(_rows(reference))])
        if self.name == "nse":
            return _joined(
                [_energy(reference[n], c) for n, c in zip(self.kinds, self._weighed(), strict=True)]
            )
        return np.array([float(judged_rows(reference[n]).sum()) for n in self.kinds])

    def loss(self, distance: Sums, weight: Sums) -> float:
        """The loss of summed distances and weights; outputs that are zero throughout are left out."""
        counted = weight > 0
        if not counted.any():
            return 0.0
        shares = np.divide(distance, weight, out=np.zeros_like(weight), where=counted)
        if len(weight) in (1, len(self.kinds)):
            return float(np.mean(shares[counted]))
        parts = zip(self.by_output(shares), self.by_output(counted), strict=True)
        return float(np.mean([found[some].mean() for found, some in parts if some.any()]))

    def by_output(self, terms: T) -> list[T]:
        """Terms [terms] in parts, one an output: [groups] each."""
        if len(terms) == 0:
            return []
        found: list[T] = np.split(terms, np.cumsum([len(c.groups) for c in self._weighed()])[:-1])
        return found

    def _weighed(self) -> list[Channels]:
        return [self.channels.get(name, _WHOLE) for name in self.kinds]


def classifier_output(metric: Metric) -> str | None:
    """The output whose largest value is the class: the only one that holds a distribution, if there is one."""
    names = [n for n, kind in metric.kinds.items() if kind.has_classes]
    return names[0] if len(names) == 1 and len(metric.kinds) == 1 else None


def classes(values: Array) -> Array:
    """Top-1 class of each sample of [N, classes, 1...]."""
    top: Array = values.reshape(values.shape[:2]).argmax(axis=1)
    return top


def surprise(output: Array, labels: Array, kind: OutputKind) -> Sums:
    """-log p of each sample's label in nats, float64 [N], from an output [N, classes, 1...]."""
    logs = _log_probabilities(output.reshape(len(output), -1).astype(np.float64), kind)
    found: Sums = -np.maximum(logs[np.arange(len(logs)), labels], math.log(_TINY))
    return found


def kl_divergence(reference: Array, output: Array, kind: OutputKind, temperature: float = 1.0) -> Sums:
    """KL(reference || output) of each sample in nats, float64 [N], from arrays [N, classes, 1...].

    A temperature divides the logarithms of the probabilities, and its square multiplies the divergence.

    Where the output has another shape (its size depends on the data), or NaN, a sample has lost what there was to lose:
    log(classes), the divergence of a certain class from equal odds. Where the reference has NaN there is nothing to lose.
    """
    if not reference.size:
        return np.zeros(len(reference))
    lost = temperature**2 * math.log(max(math.prod(reference.shape[1:]), 2))
    if reference.shape != output.shape:
        return np.full(len(reference), lost)
    with np.errstate(invalid="ignore"):
        found = temperature**2 * _divergence(reference, output, kind, temperature)
    known: Sums = np.where(np.isfinite(found), np.maximum(found, 0.0), lost)
    return np.where(judged_rows(reference), known, 0.0)


def _divergence(reference: Array, output: Array, kind: OutputKind, temperature: float) -> Sums:
    p, q = (_log_probabilities(a.reshape(len(a), -1).astype(np.float64), kind) for a in (reference, output))
    if temperature != 1:
        floor = _resolved(kind, reference.dtype)
        p, q = (
            _log_probabilities(np.maximum(values, floor) / temperature, OutputKind.LOGITS)
            for values in (p, q)
        )
    p, q = (np.maximum(values, math.log(_TINY)) for values in (p, q))  # masked logits are -inf
    divergence: Sums = (np.exp(p) * (p - q)).sum(axis=-1).reshape(len(reference), -1).sum(axis=1)
    return divergence


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


def _hidden(values: Array, kept: NDArray[np.bool_]) -> Array:
    """An output that has the mask's positions, NaN where they are padding."""
    if values.ndim <= kept.ndim or values.shape[: kept.ndim] != kept.shape:
        return values
    shown = kept.reshape(kept.shape + (1,) * (values.ndim - kept.ndim))
    return np.where(shown, values, np.asarray(np.nan, values.dtype))


def _own_loss(name: str, own: Own, reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
    try:
        return _finite(float(own(reference, outputs)))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise OptionError(
            f"metric {name} failed on outputs {', '.join(reference)}: {type(error).__name__}: {error}; it takes the "
            "outputs of both models as two dicts of arrays, and gives one number, lower is better"
        ) from error


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"it gave {number}")
    return number


def _rows(outputs: Mapping[str, Array]) -> int:
    """Of a run: the most that any output has."""
    return max((len(v) for v in outputs.values() if isinstance(v, np.ndarray) and v.ndim), default=1)


def judged_rows(reference: Array) -> NDArray[np.bool_]:
    """Which rows can be compared, bool [N]: those without NaN or Inf; masked logits are -inf."""
    lost = np.isnan(reference) | np.isposinf(reference)
    return np.asarray(~lost.any(axis=tuple(range(1, lost.ndim))))


def _joined(parts: Sequence[Sums]) -> Sums:
    return np.concatenate(parts) if parts else np.zeros(0)


def _squared_error(reference: Array, output: Array, channels: Channels) -> Sums:
    """Where the reference is finite; what became NaN or Inf there has lost all.

    An output whose shape changed (its size depends on the data) has lost all of the reference.
    """
    if reference.shape != output.shape:
        return _energy(reference, channels)
    with np.errstate(invalid="ignore"):  # Inf - Inf
        error = output - reference.astype(np.float64)
    found = channels.squares(error)
    if np.isfinite(found).all():
        return found
    lost = np.where(np.isfinite(reference), reference, 0).astype(np.float64)
    return channels.squares(np.where(np.isfinite(error), error, lost))


def _energy(reference: Array, channels: Channels) -> Sums:
    """The sums of squares of what is finite, and what a silent output counts as."""
    found = channels.squares(reference.astype(np.float64))
    if not np.isfinite(found).all():
        found = channels.squares(np.where(np.isfinite(reference), reference, 0).astype(np.float64))
    total: Sums = found + channels.least(reference)
    return total
