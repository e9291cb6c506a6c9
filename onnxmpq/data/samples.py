"""Samples and the graph inputs they are fed to: names, dtypes, shapes, labels, finite values.

An array of data has its samples along the first axis. For a graph input of rank r it has either rank r (its
first axis is the input's batch axis) or rank r + 1 (every entry is a full input, fed alone).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import DataError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array, Shape

Labels = NDArray[np.int64]
Positions = NDArray[np.int64]  # of samples in their source, ascending
Sample = Mapping[str, Array]  # one sample: its array for each graph input, without the samples' axis

LABELS = "labels"
REMEMBERED_BYTES = 128 << 20
IMAGE_CHANNELS = (1, 3, 4)
_REMEDY = "convert, reshape or resize the samples before saving them"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """All samples of one form of data, before any choice among them.

    `read(positions)` starts over at every call and yields the samples at those ascending positions. `step` is
    the batch that the graph demands, None where it is free. `fed` names the array behind each graph input, where
    arrays have names. `notes` are lines that the user should read once.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    count: int
    step: int | None
    labels: Labels | None
    read: Callable[[Positions], Iterator[Sample]]
    synthetic: bool = False
    fed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What is known of an array before its values are read."""

    dtype: np.dtype[Any]
    shape: Shape

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Binding:
    """Which array feeds which graph input (`names`: array by input), and what they have in common."""

    names: dict[str, str]
    count: int
    step: int | None
    labelled: bool


def bind(inputs: Sequence[InputSpec], arrays: Mapping[str, Array | ArrayInfo], where: str) -> Binding:
    """Match arrays, samples first, to the graph inputs.

    Raises DataError for a wrong name, shape, dtype, number of samples, or for labels that are no labels.
    """
    names = _match_names(inputs, arrays, where)
    for spec in inputs:
        info, what = arrays[names[spec.name]], f"array {names[spec.name]!r} of {where}"
        if not info.shape:
            raise DataError(f"{what} is a scalar; its first axis must be the samples")
        check_fit(spec, info.dtype, info.shape[1:], what)
    counts = {name: arrays[name].shape[0] for name in names.values()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(
            f"the arrays of {where} differ in their number of samples ({found}); all must have the same"
        )
    count = max(counts.values(), default=0)
    labelled = LABELS in arrays and LABELS not in names.values()
    if labelled:
        _check_labels(arrays[LABELS], count, where)
    ranks = {name: len(arrays[array].shape) - 1 for name, array in names.items()}
    return Binding(names, count, batch_step(inputs, ranks, where), labelled)


def check_numeric(spec: InputSpec) -> None:
    """Check that a graph input takes tensors of numbers that NumPy has; DataError where it does not."""
    if spec.dtype.hasobject:
        raise DataError(
            f"graph input {spec.name!r} takes {spec.takes}, and samples are float, integer or boolean arrays; export the "
            "model from behind the nodes that make numbers of it"
        )


def check_fit(spec: InputSpec, dtype: np.dtype[Any], shape: Shape, what: str, remedy: str = _REMEDY) -> None:
    """Check that one sample of this dtype and shape can be fed to `spec`; DataError where it cannot."""
    check_numeric(spec)
    if not _casts(dtype, spec.dtype):
        raise DataError(f"{what} holds {dtype}, graph input {spec.name!r} takes {spec.takes}; {remedy}")
    wanted = spec.shape if len(shape) == len(spec.shape) else spec.shape[1:]
    differ = f"{what} has samples of {_sample(shape)}, graph input {spec.name!r} wants {_sample(wanted)}"
    if len(shape) != len(wanted):
        raise DataError(f"{differ}; {remedy}")
    for axis, (found, want) in enumerate(zip(shape, wanted, strict=True)):
        if found == 0 or (want is not None and found != want):
            raise DataError(
                f"{differ}: {found} instead of {want or '1 or more'} along axis {axis} of a sample; {remedy}"
            )


def batch_step(inputs: Sequence[InputSpec], ranks: Mapping[str, int], where: str) -> int | None:
    """The number of samples that every run must be fed, None where the batch is free.

    `ranks` are those of one sample: one that is a full input goes alone, and a fixed batch dimension is kept.
    """
    steps = {
        spec.name: 1 if ranks[spec.name] == len(spec.shape) else spec.shape[0]
        for spec in inputs
        if ranks[spec.name] == len(spec.shape) or spec.shape[0] is not None
    }
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{name}: {step}" for name, step in steps.items())
        raise DataError(
            f"the graph inputs take different numbers of samples of {where} at a time ({found}); "
            "add an axis of samples before the full shape of each input"
        )
    return next(iter(steps.values()), None)


def conform(spec: InputSpec, value: Array, what: str) -> Array:
    """A copy of one sample in the input's dtype; DataError where it does not fit, or holds NaN or Inf."""
    check_fit(spec, value.dtype, value.shape, what)
    with np.errstate(over="ignore"):  # a float64 too large becomes Inf, which is refused below
        array = np.array(value, dtype=spec.dtype, order="C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        found = "NaN" if np.isnan(array).any() else f"Inf (as {spec.dtype})"
        raise DataError(f"{what} holds {found} for graph input {spec.name!r}; remove or mend it")
    return array


def pick(chunk: Mapping[str, Array], start: int, positions: Positions) -> Iterator[Sample]:
    """The wanted ones of the samples in `chunk`, which holds those from position `start` on; views, no copies."""
    stop = start + len(next(iter(chunk.values())))
    first, last = np.searchsorted(positions, (start, stop))
    for row in positions[first:last] - start:
        yield {name: array[row] for name, array in chunk.items()}


def remembered(source: Source, limit: int = REMEMBERED_BYTES) -> Source:
    """The same samples; those read first are kept, up to `limit` bytes in all, and come from memory from then on.

    Memory does not depend on the number of samples. Decoding an image takes as long as a small network does.
    """
    kept: dict[int, Sample] = {}
    room = limit

    def read(positions: Positions) -> Iterator[Sample]:
        nonlocal room
        known = kept.keys() & set(positions.tolist())
        fresh = source.read(np.array([p for p in positions.tolist() if p not in known], positions.dtype))
        for position in positions.tolist():
            if position in known:
                yield _copied(kept[position])
                continue
            sample = next(fresh, None)
            if sample is None:
                return
            # A copy of its own: what a reader gives may be a view of more, or a buffer that it fills again.
            own = _copied(sample)
            size = sum(value.nbytes for value in own.values())
            if position not in kept and size <= room:
                kept[position] = own
                room -= size
            yield sample

    return replace(source, read=read)


def _copied(sample: Sample) -> dict[str, Array]:
    return {name: np.array(value) for name, value in sample.items()}


def as_labels(values: Sequence[int] | Array, where: str) -> Labels:
    """Integer labels as int64; DataError where one is negative, hence no class index."""
    labels = np.asarray(values).astype(np.int64)
    if (labels < 0).any():
        raise DataError(f"the labels of {where} hold {labels.min()}; a label is a class index, 0 or more")
    return labels


def _match_names(inputs: Sequence[InputSpec], arrays: Iterable[str], where: str) -> dict[str, str]:
    wanted = [spec.name for spec in inputs]
    found = [name for name in arrays if name != LABELS or LABELS in wanted]
    if len(wanted) == len(found) == 1:  # nothing to confuse
        return {wanted[0]: found[0]}
    if set(wanted) != set(found):
        raise DataError(
            f"{where} holds the arrays {_listed(found)}, the graph inputs are {_listed(wanted)}; "
            f"save one array per graph input under its name, and class indices as {LABELS!r}"
        )
    return {name: name for name in wanted}


def _check_labels(info: Array | ArrayInfo, count: int, where: str) -> None:
    if info.dtype.kind not in "iu":
        raise DataError(f"the labels of {where} are {info.dtype}; they must be integers, the class indices")
    if info.shape != (count,):
        raise DataError(
            f"the labels of {where} have shape {info.shape}; wanted {(count,)}, one for each sample"
        )


def _casts(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Equal but for byte order, any float for a float, and uint8 for a float (the values as they are)."""
    if found.newbyteorder("=") == wanted.newbyteorder("="):
        return True
    return wanted.kind == "f" and (found.kind == "f" or found == np.uint8)


def _sample(shape: Sequence[int | None]) -> str:
    return dims(shape, "any") or "one scalar"


def dims(shape: Sequence[int | None], free: str = "?") -> str:
    """A shape in words, `1x3x?x?`, with a word for what is free."""
    return "x".join(free if size is None else str(size) for size in shape)


def is_channels_last(shape: Sequence[int | None]) -> bool:
    """True for the shape of an image [..., H, W, C], as far as its numbers of channels tell."""
    return shape[-1] in IMAGE_CHANNELS and shape[-3] not in IMAGE_CHANNELS


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "(none)"
