"""Running sums of one output against the reference's: by channel, whatever the number of samples."""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.metrics.decibels import decibels
from onnxmpq.metrics.metric import Sums, classes, judged_rows, kl_divergence
from onnxmpq.metrics.output_kinds import axis_of_classes
from onnxmpq.values.arrays import Array
from onnxmpq.values.channels import Channels, by_channel
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import OutputScore

_THRESHOLD = 0.5  # of what lies in 0..1
_FEWEST = 8  # values of a channel; the mean of fewer tells nothing
_BLOCK = 1 << 20  # values that are added up at once
_SLIGHT = 1e-3  # of the root mean square: what varies less is constant
_NEAREST = 1e-7  # to 0 and 1, where float32 tells a logit


class FloatTally:
    """Of an output of floating-point numbers."""

    def __init__(self, kind: OutputKind, channels: Channels) -> None:
        self._kind = kind
        self._errors = _Errors(channels)
        self._logits = _Errors(Channels()) if kind in (OutputKind.HEATMAP, OutputKind.INDEPENDENT) else None
        self._agreement = _Agreement()
        self._class_axis: int | None = None
        self._runs = self._rows = 0
        self._kl = self._cosine = 0.0
        # Of runs with other shapes: how many, elements of the reference's outputs, and of the model's.
        self._sizes: Sums = np.zeros(3)

    def add(self, reference: Array, output: Array) -> None:
        """One run's outputs. Of another shape only the sizes can be compared, and classes are others."""
        self._runs += 1
        self._rows += len(reference) if reference.ndim else 1
        if self._kind.is_distribution:
            self._kl += float(kl_divergence(reference, output, self._kind).sum())
        if reference.shape != output.shape:
            self._sizes += [1, reference.size, output.size]
            if self._kind.has_classes:
                self._agreement.add(classes(reference), np.full(len(reference), -1))
            return
        self._errors.add(reference, output)
        if self._logits is not None:
            self._logits.add(_logits(reference), _logits(output))
        if self._kind is OutputKind.EMBEDDING:
            self._cosine += float(_cosines(reference, output).sum())
        self._agreement.add(*self._classes(reference, output))

    def score(self) -> OutputScore:
        """What the sums come to."""
        errors, rows = self._errors, max(self._rows, 1)
        group, worst = errors.worst()
        reshaped, before, after = self._sizes
        return OutputScore(
            kind=self._kind,
            sqnr=errors.sqnr(),
            worst=group,
            worst_sqnr=worst,
            contrast=errors.contrast(),
            before_sigmoid=None if self._logits is None else self._logits.sqnr(),
            agreement=self._agreement.share(),
            elsewhere=self._agreement.elsewhere(),
            kl=self._kl / rows if self._kind.is_distribution else None,
            cosine=self._cosine / rows if self._kind is OutputKind.EMBEDDING else None,
            moved=errors.moved(),
            is_silent=errors.is_silent(),
            reshaped=float(reshaped) / max(self._runs, 1),
            resized=float(after / before) if before else math.inf if after else 1.0,
        )

    def _classes(self, reference: Array, found: Array) -> tuple[Array, Array]:
        """The class of each row, position or element in both, integers [values]; -1 where the output has none."""
        if self._kind.has_classes:
            rows = judged_rows(reference)
            got = np.where(judged_rows(found), classes(found), -1)
            return classes(reference)[rows], got[rows]
        if self._kind is OutputKind.POSITIONS:
            if self._class_axis is None:
                self._class_axis = axis_of_classes(np.nan_to_num(reference))
            known = ~np.isnan(reference).any(self._class_axis)
            return reference.argmax(self._class_axis)[known], found.argmax(self._class_axis)[known]
        if self._logits is not None:
            known = ~np.isnan(reference)
            pair = (reference[known] > _THRESHOLD, found[known] > _THRESHOLD)
            return pair[0].astype(np.int64), pair[1].astype(np.int64)
        return np.zeros(0, np.int64), np.zeros(0, np.int64)


class _Agreement:
    """Counts by the reference's class: how many values have it, and of these how many the output gives it, too."""

    def __init__(self) -> None:
        self._counts: Sums = np.zeros((2, 1))

    def add(self, reference: Array, found: Array) -> None:
        if not reference.size:
            return
        truth = reference.ravel()
        same = truth == found.ravel()
        size = max(int(truth.max()) + 1, self._counts.shape[1])
        fresh = np.stack([np.bincount(truth, minlength=size), np.bincount(truth[same], minlength=size)])
        self._counts = np.pad(self._counts, ((0, 0), (0, size - self._counts.shape[1]))) + fresh

    def share(self) -> float | None:
        """Of all values."""
        total, same = self._counts.sum(axis=1)
        return float(same / total) if total else None

    def elsewhere(self) -> float | None:
        """Of those that the reference does not give to its commonest class, where there are enough."""
        common = int(self._counts[0].argmax())
        total, same = np.delete(self._counts, common, axis=1).sum(axis=1)
        return float(same / total) if total >= _FEWEST else None


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
        """Sums of one run, a block of rows at a time: they take eight times the block's bytes."""
        step = max(_BLOCK // max(reference[:1].size, 1), 1) if reference.ndim else 1
        for start in range(0, len(reference) if reference.ndim else 1, step):
            rows = slice(start, start + step) if reference.ndim else ...
            self._add(reference[rows], found[rows])

    def _add(self, reference: Array, found: Array) -> None:
        with np.errstate(invalid="ignore"):
            error = found - reference.astype(np.float64)
        finite = np.isfinite(reference)
        known = np.where(finite, reference, 0).astype(np.float64)
        error = np.where(np.isfinite(error), error, known)  # what became NaN has lost all
        self._moved += int((finite != np.isfinite(found)).sum())
        self._elements += reference.size
        parts = (finite, known, np.square(known), error, np.square(error))
        sums = np.stack([by_channel(part, self._axis(reference)) for part in parts])
        if self._sums is None or self._sums.shape == sums.shape:
            self._sums = sums if self._sums is None else self._sums + sums
        else:  # a size that depends on the data: no channels
            self._sums = self._sums.sum(axis=1, keepdims=True) + sums.sum(axis=1, keepdims=True)

    def sqnr(self) -> float | None:
        """Of all elements, in dB; None where the reference is zero throughout, which tells nothing, or nothing was compared."""
        energy, error = self._groups(2).sum() + self._floors().sum(), self._groups(4).sum()
        return decibels(error, energy) if self._sums is not None and (energy or not error) else None

    def worst(self) -> tuple[str, float | None]:
        """The group of channels that has the least SQNR, and that in dB."""
        if self.sqnr() is None:
            return "", None
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
        if len(self._channels.groups) == 1 or len(channels) == 1:
            return np.array([channels.sum()])
        return self._channels.by_group(channels)

    def _floors(self) -> Sums:
        """What each group counts as where it is silent."""
        counts = self._groups(0)
        return np.square(self._channels.floors[: len(counts)]) * counts


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
