"""Free dimensions of graph inputs: given by the user, read off the data, or guessed by trying.

Batch is 1 wherever a first dimension is free; the written file keeps every free dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmpq.data import synthetic_data
from onnxmpq.data.samples import dims, is_channels_last
from onnxmpq.errors import EngineError, ModelError, OptionError, nearest
from onnxmpq.runtime.session import InputSpec, Session
from onnxmpq.values.arrays import Array, Shape

# Tried in this order: what image networks are trained at; lengths of signals.
_IMAGE_SIZES = (224, 256, 320, 416, 512, 640, 299, 192, 128, 96, 64, 48, 32, 28, 16, 8, 1)
_VOLUME_SIZES = (32, 64, 16, 112, 96, 128, 224, 8, 1)  # of scans and videos: cubes grow fast
_SIGNAL_SIZES = (512, 256, 128, 1024, 2048, 4096, 16000, 100, 80, 64, 40, 32, 16, 8, 4, 2, 1)
_NUMBERS = "fiub"  # NumPy's kinds; there are strings, too


def parse_shape(text: str) -> tuple[str, Shape]:
    """`NAME=1x3x224x224` as a name and its dimensions. Raises OptionError for anything else."""
    name, _, sizes = text.rpartition("=")
    if not name or not all(d.isdecimal() and int(d) > 0 for d in sizes.split("x")):
        raise OptionError(f"--shape {text!r} was not understood; write NAME=1x3x224x224")
    return name, tuple(int(d) for d in sizes.split("x"))


def apply_shapes(inputs: Sequence[InputSpec], shapes: Mapping[str, Shape]) -> tuple[InputSpec, ...]:
    """The graph inputs with the user's shapes filled in; a free batch stays free.

    Raises OptionError for a name that is no input, or a size the model fixes otherwise.
    """
    known = [i.name for i in inputs]
    for name in shapes:
        if name not in known:
            hint = nearest(name, known) or f"inputs: {', '.join(known)}"
            raise OptionError(f"--shape names {name!r}, which is not an input of the model; {hint}")
    return tuple(_with_shape(i, shapes.get(i.name)) for i in inputs)


def _with_shape(spec: InputSpec, asked: Shape | None) -> InputSpec:
    if asked is None:
        return spec
    if not agree(asked, spec.shape):
        raise OptionError(
            f"--shape {spec.name}={dims(asked)} does not fit the model, which has {dims(spec.shape)}; a size may be "
            "given where it has ?"
        )
    return at_sizes(spec, asked)


def agree(ours: Sequence[int | None], theirs: Sequence[int | None]) -> bool:
    """True for shapes that are equal but for dimensions that one of them leaves free."""
    return len(ours) == len(theirs) and all(
        None in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)
    )


def at_sizes(spec: InputSpec, sizes: Shape) -> InputSpec:
    """The input at these sizes; a free number of samples stays free."""
    return replace(spec, shape=(None, *sizes[1:]) if spec.shape[:1] == (None,) else sizes)


def guess_shapes(session: Session, specs: Sequence[InputSpec], seed: int) -> tuple[InputSpec, ...]:
    """Sizes for the dimensions still free besides the batch: the first that the model runs at.

    Raises ModelError when it runs at none.
    """
    reason = ""
    for candidate in _candidates(specs):
        try:
            session.run(one_sample(candidate, seed))
        except EngineError as error:
            reason = str(error)
        else:
            return _with_batches_of_one(candidate)
    free = ", ".join(f"{s.name}={dims(s.shape)}" for s in specs)
    raise ModelError(
        f"no input size that was tried runs this model ({free}); give one with --shape NAME=DIMS. Last: {reason}"
    )


def one_sample(specs: Sequence[InputSpec], seed: int) -> dict[str, Array]:
    """Synthetic feeds of one sample, batch 1."""
    fixed = [replace(s, shape=tuple(1 if d is None else d for d in s.shape)) for s in specs]
    return next(iter(synthetic_data(fixed, samples=1, seed=seed).batches(1))).feeds


def is_batchable(session: Session, specs: Sequence[InputSpec], seed: int) -> bool:
    """True when two samples in one run give what two runs give: a free first dimension alone promises nothing."""
    if not specs or not all(s.shape and s.shape[0] is None for s in specs):
        return False
    first, second = one_sample(specs, seed + 1), one_sample(specs, seed + 2)
    try:
        together = session.run({name: np.concatenate([first[name], second[name]]) for name in first})
        apart = [session.run(feeds) for feeds in (first, second)]
    except EngineError:
        return False
    return all(_stacks(together[name], [run[name] for run in apart]) for name in together)


def _stacks(together: Array, apart: Sequence[Array]) -> bool:
    """True for numbers of which each sample has its own; results whose sizes the data decide may fit by chance only."""
    if not isinstance(together, np.ndarray) or together.ndim == 0 or together.dtype.kind not in _NUMBERS:
        return False
    if any(one.ndim == 0 or one.shape[1:] != together.shape[1:] for one in apart):
        return False
    stacked = np.concatenate(apart)
    return stacked.shape == together.shape and np.allclose(stacked, together, rtol=1e-3, atol=1e-4)


def _candidates(specs: Sequence[InputSpec]) -> Iterator[tuple[InputSpec, ...]]:
    if all(d is not None for s in specs for d in s.shape[1:]):
        yield tuple(specs)
        return
    rank = max(len(s.shape) for s in specs)
    sizes = _VOLUME_SIZES if rank >= 5 else _IMAGE_SIZES if rank == 4 else _SIGNAL_SIZES
    for size, other in itertools.product(sizes, (None, 1)):
        yield tuple(replace(s, shape=_filled(s.shape, size, other)) for s in specs)


def _filled(shape: tuple[int | None, ...], size: int, other: int | None) -> tuple[int | None, ...]:
    """Free dimensions as `size`; an image's channels as 3; those of no image as `other` where that is given."""
    guesses = [other or size] * len(shape)
    guesses[-1:] = [size]
    if len(shape) == 4:
        guesses = [size] * 4
        guesses[3 if is_channels_last(shape) else 1] = 3
    filled = [guess if d is None else d for d, guess in zip(shape, guesses, strict=False)]
    return (*shape[:1], *filled[1:])


def _with_batches_of_one(specs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """Batches of 1 where the inputs share no batch axis: some first dimensions are free, others are not."""
    if len({s.shape[:1] == (None,) for s in specs}) < 2:
        return specs
    return tuple(replace(s, shape=tuple(d or 1 for d in s.shape)) for s in specs)
