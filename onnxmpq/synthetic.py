"""Noise for a model that comes without data: enough to compile and compare, not to calibrate well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxmpq.errors import DataError
from onnxmpq.samples import Array, InputSpec, Positions, Sample, Shape, Source, batch_step

_NAME = "synthetic noise"


def open_noise(inputs: Sequence[InputSpec], samples: int, seed: int) -> Source:
    """Normal floats, integers 0 or 1, booleans: each sample from its own stream of `seed`.

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
            yield {spec.name: _noise(rng, spec.dtype, shapes[spec.name], _amplitude(spec)) for spec in inputs}

    return Source(_NAME, tuple(inputs), count, step, None, read, synthetic=True)


def _check(spec: InputSpec) -> None:
    if spec.dtype.kind not in "fiub":
        raise DataError(f"graph input {spec.name!r} takes {spec.dtype}, which noise cannot fill; give data")
    if None in spec.shape[1:]:
        raise DataError(f"graph input {spec.name!r} has free dimensions {spec.shape}; give its shape or data")


def _sample_shapes(inputs: Sequence[InputSpec]) -> dict[str, Shape]:
    """Shape of one sample by input: a row of the batch, or a full input where the inputs share no batch axis."""
    firsts = {spec.shape[:1] for spec in inputs} - {(None,)}
    shared = () not in firsts and len(firsts) <= 1
    return {spec.name: tuple(d or 1 for d in (spec.shape[1:] if shared else spec.shape)) for spec in inputs}


def _amplitude(spec: InputSpec) -> float:
    """Images (rank 4 and up) look like normalised pixels, other signals like sound at -20 dB of full scale."""
    return 1.0 if len(spec.shape) >= 4 else 0.1


def _noise(rng: np.random.Generator, dtype: np.dtype[Any], shape: Shape, amplitude: float) -> Array:
    values = rng.standard_normal(shape) * amplitude if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)
