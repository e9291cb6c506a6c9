"""Running sums of one output against the reference's: by channel, whatever the number of samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxmpq.metrics.metric import Sums, classes, judged_rows, kl_divergence
from onnxmpq.metrics.output_kinds import class_axis
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import OutputScore

_THRESHOLD = 0.5  # of what lies in 0..1
_FEWEST = 8  # values of a channel; the mean of fewer tells nothing
_SLIGHT = 1e-3  # of the root mean square: what varies less is constant
_NEAREST = 1e-7  # to 0 and 1, where float32 tells a logit


class FloatTally:
    """Of an output of floating-point numbers."""

    def __init__(self, kind: OutputKind, channels: Channels) -> None:
        self._kind = kind
        self._errors = _Errors(channels)
        self._logits = _Errors(Channels()) if kind in (OutputKind.HEATMAP, OutputKind.INDEPENDENT) else None
        self._class_axis: int | None = None
        self._rows = self._judged = self._agreeing = 0
        self._kl = self._cosine = 0.0

    def add(self, reference: Array, output: Array) -> None:
        """One run's outputs. What has another shape has lost all."""
        found = output if reference.shape == output.shape else np.full_like(reference, np.nan)
        self._rows += len(reference) if reference.ndim else 1
        self._errors.add(reference, found)
        if self._logits is not None:
            self._logits.add(_logits(reference), _logits(found))
        if self._kind.is_distribution:
            self._kl += float(kl_divergence(reference, output, self._kind).sum())
        if self._kind is OutputKind.EMBEDDING:
            self._cosine += float(_cosines(reference, found).sum())
        agreeing = self._agreement(reference, found)
        self._judged += agreeing.size
        self._agreeing += int(agreeing.sum())

    def score(self) -> OutputScore:
        """What the sums come to."""
        errors, rows = self._errors, max(self._rows, 1)
        group, worst = errors.worst()
        return OutputScore(
            kind=self._kind,
            sqnr=errors.sqnr(),
            worst=group,
            worst_sqnr=worst,
            contrast=errors.contrast(),
            before_sigmoid=None if self._logits is None else self._logits.sqnr(),
            agreement=self._agreeing / self._judged if self._judged else None,
            kl=self._kl / rows if self._kind.is_distribution else None,
            cosine=self._cosine / rows if self._kind is OutputKind.EMBEDDING else None,
            moved=errors.moved(),
            is_silent=errors.is_silent(),
        )

    def _agreement(self, reference: Array, found: Array) -> NDArray[np.bool_]:
        """What was the same, row by row, position by position or element by element; nothing where it means nothing."""
        if self._kind.has_classes:
            rows = judged_rows(reference)
            return np.asarray(((classes(reference) == classes(found)) & judged_rows(found))[rows])
        if self._kind is OutputKind.POSITIONS:
            if self._class_axis is None:
                self._class_axis = class_axis([reference]) or reference.ndim - 1
            return np.asarray(reference.argmax(self._class_axis) == found.argmax(self._class_axis))
        if self._logits is not None:
            return np.asarray((reference > _THRESHOLD) == (found > _THRESHOLD))
        return np.zeros(0, np.bool_)


class EqualTally:
    """Of an output of anything but floating-point numbers: equal or not."""

    def __init__(self) -> None:
        self._equal = 0.0
        self._runs = 0

    def add(self, reference: object, output: object) -> None:
        """One run's outputs; sequences and maps are passed over."""
        if not isinstance(reference, np.ndarray) or not isinstance(output, np.ndarray) or not reference.size:
            return
        self._equal += float((reference == output).mean()) if reference.shape == output.shape else 0.0
        self._runs += 1

    def score(self) -> OutputScore:
        """The mean over the runs."""
        return OutputScore(agreement=self._equal / self._runs if self._runs else None)


class _Errors:
    """Sums by channel: elements that are finite, values, squares, errors, squared errors."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._sums: Sums | None = None
        self._moved = self._elements = 0

    def add(self, reference: Array, found: Array) -> None:
        with np.errstate(invalid="ignore"):
            error = found - reference.astype(np.float64)
        finite = np.isfinite(reference)
        known = np.where(finite, reference, 0).astype(np.float64)
        error = np.where(np.isfinite(error), error, known)  # what became NaN has lost all
        self._moved += int((finite != np.isfinite(found)).sum())
        self._elements += reference.size
        parts = (finite, known, np.square(known), error, np.square(error))
        sums = np.stack([_by_channel(part, self._axis(reference)) for part in parts])
        if self._sums is None or self._sums.shape == sums.shape:
            self._sums = sums if self._sums is None else self._sums + sums
        else:  # a size that depends on the data: no channels
            self._sums = self._sums.sum(axis=1, keepdims=True) + sums.sum(axis=1, keepdims=True)

    def sqnr(self) -> float:
        """DB over all elements."""
        energy, error = self._groups(2).sum() + self._floors().sum(), self._groups(4).sum()
        return decibels(error, energy)

    def worst(self) -> tuple[str, float]:
        """The group of channels that has the least SQNR, and that in dB."""
        ratios = [
            decibels(*pair) for pair in zip(self._groups(4), self._groups(2) + self._floors(), strict=True)
        ]
        least = int(np.argmin(ratios))
        return (self._channels.name(least) if len(ratios) > 1 else ""), ratios[least]

    def contrast(self) -> float | None:
        """The least SQNR of a group in dB, each channel's means taken away; None where too few values tell of one."""
        if self._sums is None or self._sums[0].min() < _FEWEST:
            return None
        count, total, squares, error, noise = self._sums
        varying = self._group(squares - total**2 / count)
        noise = self._group(noise - error**2 / count)
        slight = self._floors() + _SLIGHT**2 * self._groups(2)
        return min(decibels(*pair) for pair in zip(noise, varying + slight, strict=True))

    def moved(self) -> float:
        return self._moved / max(self._elements, 1)

    def is_silent(self) -> bool:
        return bool((self._groups(2) <= self._floors()).all())

    def _axis(self, values: Array) -> int | None:
        if len(self._channels.groups) > 1:
            return self._channels.axis
        return 1 if values.ndim > 1 else None

    def _groups(self, row: int) -> Sums:
        return self._group(np.zeros(1) if self._sums is None else self._sums[row])

    def _group(self, channels: Sums) -> Sums:
        """Sums of the groups from those of channels."""
        groups = self._channels.groups
        if len(groups) == 1 or len(channels) == 1:
            return np.array([channels.sum()])
        return np.array([channels[list(group)].sum() for group in groups])

    def _floors(self) -> Sums:
        """What each group counts as where it is silent."""
        counts = self._groups(0)
        return np.square(self._channels.floors[: len(counts)]) * counts


def decibels(noise: float, signal: float) -> float:
    """Signal to noise in dB of two sums of squares: infinite without noise."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(max(signal, np.finfo(float).tiny) / noise)


def _by_channel(values: Array, axis: int | None) -> Sums:
    others = tuple(a for a in range(values.ndim) if a != axis)
    return np.atleast_1d(values.sum(axis=others, dtype=np.float64))


def _logits(values: Array) -> Sums:
    inner = np.clip(values.astype(np.float64), _NEAREST, 1 - _NEAREST)
    found: Sums = np.log(inner) - np.log1p(-inner)
    return found


def _cosines(reference: Array, found: Array) -> Sums:
    """Of each row, float64 [N]; 0 where one of both has no length or is not finite."""
    a, b = (np.nan_to_num(v.reshape(len(v), -1).astype(np.float64)) for v in (reference, found))
    lengths = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    cosines: Sums = np.divide((a * b).sum(axis=1), lengths, out=np.zeros(len(a)), where=lengths > 0)
    return cosines
