"""Calibration and evaluation data of any form, as one streamed `Dataset`.

Memory is a batch and a chunk of the file whatever the number of samples (but for a position and a label each).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxmpq.data.callables import Feeds, open_feeds
from onnxmpq.data.images import open_images
from onnxmpq.data.npz import open_arrays, open_npz
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.data.samples import REMEMBERED_BYTES, Labels, Positions, Sample, Source, conform, remembered
from onnxmpq.data.synthetic import LEVELS, Levels, open_noise
from onnxmpq.errors import DataError, MissingFileError, OptionError, nearest
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

_CHECKED_TOGETHER = 8  # samples

__all__ = ["Batch", "Dataset", "InputSpec", "holds_images", "open_data", "synthetic_data"]


class Reader(Protocol):
    """What onnxruntime calls a CalibrationDataReader."""

    def get_next(self) -> Mapping[str, Array] | None:
        """The next dict of arrays, None behind the last."""


DataSource = (
    str
    | os.PathLike[str]
    | Mapping[str, Array]
    | Callable[[], Iterable[Mapping[str, Array]]]
    | Iterable[Mapping[str, Array]]
    | Reader
)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`count` samples: contiguous arrays of the graph inputs' dtypes and shapes, labels int64 [count] or None."""

    feeds: dict[str, Array]
    labels: Labels | None
    count: int

    @property
    def given_labels(self) -> Labels:
        """The labels, where they are wanted. Raises DataError where there are none."""
        if self.labels is None:
            raise DataError("a batch has no labels; give every sample one")
        return self.labels


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Some samples of a source, in its order; every pass streams them from the start.

    Where the graph demands batches of n samples, the count is a multiple of n: a remainder is left out.
    """

    source: Source
    positions: Positions

    @property
    def count(self) -> int:
        return len(self.positions)

    @property
    def synthetic(self) -> bool:
        return self.source.synthetic

    @property
    def has_labels(self) -> bool:
        return self.source.labels is not None

    @property
    def labels(self) -> Labels | None:
        """Class indices, int64 [count]."""
        return None if self.source.labels is None else self.source.labels[self.positions]

    @property
    def description(self) -> str:
        return f"{self.count} sample{'s' if self.count > 1 else ''} of {self.source.name}"

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of `size` samples, the last one smaller, or of exactly as many as the graph demands.

        Raises DataError, while it streams, for a sample that does not fit or holds NaN or Inf, and for a source
        that is damaged or ends too early.
        """
        if size < 1:
            raise OptionError(f"batches of {size} samples were asked for; wanted 1 or more")
        size = self.source.step or size
        samples, labels = self.samples(), self.labels
        for start in range(0, self.count, size):
            group = list(islice(samples, size))
            yield self._batch(group, None if labels is None else labels[start : start + size])

    def shuffled(self, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches of all samples in a random order.

        They are read part by part, a random part at a time that fits a bound of memory, so that a source that can
        only be read from its start is read few times. Raises DataError as `batches` does.
        """
        step = self.source.step or 1
        size = self.source.step or size
        order, part = rng.permutation(self.count), self._held_at_once(size)
        for start in range(0, self.count, part):
            held = self.take(order[start : start + part])
            samples, labels = list(held.samples()), held.labels
            mixed = np.arange(held.count).reshape(-1, step)[rng.permutation(held.count // step)].ravel()
            for first in range(0, held.count, size):
                chosen = mixed[first : first + size]
                yield self._batch([samples[i] for i in chosen], None if labels is None else labels[chosen])

    def take(self, indices: Sequence[int] | Array) -> Dataset:
        """The samples at these indices of this dataset, each once, in the order of the source."""
        return _choose(self.source, np.unique(self.positions[list(indices)]))

    @property
    def divides(self) -> bool:
        """True where there are samples enough to split them."""
        return self.count >= 2 * (self.source.step or 1)

    def split(self, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
        """(kept, held out): disjoint random parts; `held_out`, in (0, 1), is the share of the second."""
        if not 0 < held_out < 1:
            raise OptionError(f"a share of {held_out} was to be held out; wanted more than 0 and less than 1")
        step = self.source.step or 1
        if not self.divides:
            raise DataError(f"{self.description} cannot be split in two; wanted {2 * step} or more")
        held = min(max(round(self.count * held_out / step), 1) * step, self.count - step)
        order = np.random.default_rng(seed).permutation(self.count)
        return self.take(order[held:]), self.take(order[:held])

    def some(self, most: int, seed: int) -> Dataset:
        """At most `most` of the samples, at random by `seed`; where the graph fixes its batches, the nearest number of these, or one."""
        return self if most >= self.count or not self.divides else self.split(most / self.count, seed)[1]

    def remembered(self) -> Dataset:
        """The same samples, for several passes: decoded once, as many as fit a bound of memory."""
        return Dataset(remembered(self.source), self.positions)

    def _held_at_once(self, size: int) -> int:
        """How many samples, in whole batches, fit what is remembered."""
        batch = next(self.batches(size))
        bytes_each = sum(values.nbytes for values in batch.feeds.values()) // batch.count
        return max(REMEMBERED_BYTES // (bytes_each * size), 1) * size

    def check(self) -> None:
        """Read all samples once. Raises DataError as `batches` does: rather now than after long work."""
        for batch in self.batches(_CHECKED_TOGETHER):
            del batch

    def samples(self) -> Iterator[Sample]:
        """The samples in order, each a copy that fits the graph inputs."""
        inputs, name = self.source.inputs, self.source.name
        samples = self.source.read(self.positions)
        for done, position in enumerate(self.positions):
            sample = next(samples, None)
            if sample is None:
                raise DataError(
                    f"{name} ended after {done} of {self.count} samples; "
                    "it must give the same samples in every pass"
                )
            what = f"sample {position} of {name}"
            yield {spec.name: conform(spec, np.asarray(sample[spec.name]), what) for spec in inputs}

    def _batch(self, group: Sequence[Sample], labels: Labels | None) -> Batch:
        name = self.source.name
        return Batch({spec.name: _feed(spec, group, name) for spec in self.source.inputs}, labels, len(group))


def open_data(
    source: DataSource,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
) -> Dataset:
    """Data of any form for these graph inputs: `samples` of them at random by `seed`, or all where None.

    `source` is an `.npz`; a folder of images or a `.zip` of one, which want `preprocess`; `file.py:callable` or
    `module:callable`; or a mapping of arrays, a callable itself, or what gives one dict after another: a list, a generator, a
    CalibrationDataReader. Arrays hold values as the model takes them: any float is cast to a float input's type, and so is
    uint8, its values as they are. Of a callable the first `samples` are taken.

    Raises MissingFileError, OptionError, or DataError for data that do not fit the inputs.
    """
    require_seed(seed)
    if samples is not None and samples < 1:
        raise OptionError(f"{samples} samples were asked for; wanted 1 or more")
    if preprocess is not None and not holds_images(source):
        raise OptionError("preprocessing is for images; other data hold values as the model takes them")
    opened = _open(source, inputs, samples, preprocess)
    positions = np.arange(opened.count)
    if samples is not None and samples < opened.count:
        positions = np.sort(np.random.default_rng(seed).choice(opened.count, samples, replace=False))
    return _choose(opened, positions)


def require_seed(seed: int) -> None:
    """Raise OptionError for one that NumPy does not take."""
    if seed < 0:
        raise OptionError(f"a seed of {seed} was given; it must be 0 or more")


def synthetic_data(
    inputs: Sequence[InputSpec], *, samples: int, seed: int, levels: Levels = LEVELS[0]
) -> Dataset:
    """`samples` of noise (rounded up to whole batches): images on such levels, normal floats, integers 0 or 1, booleans.

    Raises DataError for an input that is no number, or that has free dimensions besides the first.
    """
    source = remembered(open_noise(inputs, samples, seed, levels))
    return _choose(source, np.arange(source.count))


def holds_images(source: DataSource) -> bool:
    """True where `source` is a folder or a zip: read as images, hence in want of a `Preprocess`."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    return path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")


def _open(
    source: DataSource, inputs: Sequence[InputSpec], samples: int | None, preprocess: Preprocess | None
) -> Source:
    if not isinstance(source, str | os.PathLike):
        return _open_object(source, inputs, samples, _name_of(source))
    path = Path(source)
    if holds_images(path):
        return open_images(path, inputs, preprocess)
    if path.is_file() and path.suffix.lower() == ".npz":
        return open_npz(path, inputs)
    if path.exists():
        raise DataError(
            f"{path} is neither an .npz, nor a folder or .zip of images; save arrays with np.savez"
        )
    if not is_reference(str(source)):
        raise MissingFileError(f"there is no file or folder {path}; {_neighbours(path)}")
    return _open_object(load_attribute(str(source)), inputs, samples, str(source))


def _name_of(given: Any) -> str:
    if isinstance(given, Mapping):
        return "the given arrays"
    return str(getattr(given, "__qualname__", "the given data"))


def _open_object(given: Any, inputs: Sequence[InputSpec], samples: int | None, name: str) -> Source:
    if isinstance(given, Mapping):
        return open_arrays(given, inputs, name)
    feeds = Feeds.of(given)
    if feeds is None:
        raise DataError(
            f"{name} are no data but a {type(given).__name__}; give a path, a callable, reader or list of dicts of arrays, or a dict of "
            f"arrays by input: {', '.join(spec.name for spec in inputs)}"
        )
    return open_feeds(feeds, inputs, samples, name)


def _choose(source: Source, positions: Positions) -> Dataset:
    """The samples at `positions` that fill whole batches; DataError where there are none."""
    if len(positions) == 0:
        raise DataError(f"{source.name} holds no samples; wanted 1 or more")
    usable = len(positions) - len(positions) % (source.step or 1)
    if usable == 0:
        raise DataError(
            f"the graph takes {source.step} samples at a time, and of {source.name} there are {len(positions)}; "
            f"give {source.step} or more"
        )
    return Dataset(source, positions[:usable])


def _feed(spec: InputSpec, group: Sequence[Sample], name: str) -> Array:
    """The samples of a batch along the input's first axis, or the one sample that is a full input."""
    arrays = [sample[spec.name] for sample in group]
    if arrays[0].ndim == len(spec.shape):
        return arrays[0]
    if len({array.shape for array in arrays}) > 1:
        raise DataError(
            f"samples of {name} for graph input {spec.name!r} differ in shape within a batch; "
            "bring them to one size (for images: crop=N or resize=HxW)"
        )
    return np.stack(arrays)


def _neighbours(path: Path) -> str:
    """The names beside a missing file that are most like it, or a hint."""
    try:
        return nearest(path.name, (file.name for file in path.parent.iterdir())) or "check the path"
    except OSError:
        return f"there is no folder {path.parent} either"
