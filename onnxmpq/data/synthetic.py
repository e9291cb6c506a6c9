"""Noise for a model that comes without data: enough to compile and compare, not to calibrate well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.data.samples import Positions, Sample, Source, batch_step, check_numeric, is_channels_last
from onnxmpq.errors import DataError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array, Shape

_NAME = "synthetic noise"
_SPEECH = 0.05  # root mean square of speech at its nominal level, -26 dBov (ITU-T P.56)


@dataclass(frozen=True, slots=True)
class Levels:
    """The standard deviation and the mean that images have, and what is said of them."""

    deviation: float
    mean: float
    words: str


# What networks are trained on, the usual first; deviations and means are those of photographs.
LEVELS = (
    Levels(1.0, 0.0, "mean 0 and variance 1"),
    Levels(0.25, 0.45, "0 to 1"),
    Levels(0.5, -0.1, "-1 to 1"),
    Levels(64.0, 115.0, "0 to 255"),
    Levels(64.0, 0.0, "-128 to 127"),
)


def open_noise(inputs: Sequence[InputSpec], samples: int, seed: int, levels: Levels = LEVELS[0]) -> Source:
    """Images on such levels for inputs of four axes, noise for others: each sample from its own stream of `seed`.

    `samples` is rounded up to whole batches. Raises DataError for an input that noise cannot fill.
    """
    for spec in inputs:
        _check(spec)
    shapes = _sample_shapes(inputs)
    step = batch_step(inputs, {name: len(shape) for name, shape in shapes.items()}, _NAME)
    count = -(-samples // (step or 1)) * (step or 1)

    def read(positions: Positions) -> Iterator[Sample]:
        for position in positions:
            rng = np.random.default_rng([seed, position])
            yield _sample(inputs, shapes, rng, levels)

    return Source(_NAME, tuple(inputs), count, step, None, read, synthetic=True)


def image_feeds(inputs: Sequence[InputSpec], rng: np.random.Generator, levels: Levels) -> Sample:
    """The feeds of one run on one sample. Raises DataError for an input that noise cannot fill."""
    for spec in inputs:
        _check(spec)
    fixed = {spec.name: tuple(size or 1 for size in spec.shape) for spec in inputs}
    return _sample(inputs, fixed, rng, levels)


def _sample(
    inputs: Sequence[InputSpec], shapes: Mapping[str, Shape], rng: np.random.Generator, levels: Levels
) -> Sample:
    return {s.name: _noise(rng, s.dtype, shapes[s.name], len(s.shape), levels) for s in inputs}


def _check(spec: InputSpec) -> None:
    check_numeric(spec)
    if None in spec.shape[1:]:
        raise DataError(f"graph input {spec.name!r} has free dimensions {spec.shape}; give its shape or data")


def _sample_shapes(inputs: Sequence[InputSpec]) -> dict[str, Shape]:
    """Shape of one sample by input: a row of the batch, or a full input where the inputs share no batch axis."""
    firsts = {spec.shape[:1] for spec in inputs} - {(None,)}
    shared = () not in firsts and len(firsts) <= 1
    return {spec.name: tuple(d or 1 for d in (spec.shape[1:] if shared else spec.shape)) for spec in inputs}


def _noise(rng: np.random.Generator, dtype: np.dtype[Any], shape: Shape, rank: int, levels: Levels) -> Array:
    """One sample: an image, features, a signal, integers 0 or 1, or booleans, as dtype and rank suggest."""
    if dtype.kind != "f":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    if rank == 4:  # one image, or as many as a full input holds
        images = [_image(rng, shape[-3:]) for _ in range(math.prod(shape[:-3]))]
        return (levels.deviation * np.stack(images) + levels.mean).reshape(shape).astype(dtype)
    return np.asarray(rng.standard_normal(shape) * (1.0 if rank > 2 else _SPEECH)).astype(dtype)


def _image(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Channels with the amplitude spectrum of natural images, 1/f, and half their variance in common; mean 0, variance 1.

    White noise drives a trained network where no image does. Field 1987, J. Opt. Soc. Am. A 4:2379.
    """
    channels_last = is_channels_last(shape)
    channels, height, width = (shape[i] for i in ((-1, -3, -2) if channels_last else (-3, -2, -1)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(rng.standard_normal((channels + 1, height, width))) / frequency
    fields = np.fft.irfft2(spectrum, s=(height, width))
    image = fields[1:] + fields[:1]
    image /= max(image.std(), np.finfo(np.float64).tiny)
    return (np.moveaxis(image, 0, -1) if channels_last else image).reshape(shape)
