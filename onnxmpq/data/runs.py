"""Arrays as one run of a session takes them: scalars, and states whose samples lie along another axis than the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxmpq.data.samples import LABELS, Binding, bind
from onnxmpq.errors import DataError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

Arrays = Mapping[str, Array]
Form = Callable[[Sequence[InputSpec], Arrays], dict[str, Array] | None]


def fitting(
    forms: Sequence[Form], inputs: Sequence[InputSpec], arrays: Arrays, what: str
) -> tuple[dict[str, Array], Binding, Form]:
    """The arrays in the first form that fits the inputs. Raises DataError with what is wrong in the first of all."""
    wrong: DataError | None = None
    for form in forms:
        try:
            if (formed := form(inputs, arrays)) is not None:
                return formed, bind(inputs, formed, what), form
        except DataError as error:
            wrong = wrong or error
    assert wrong is not None  # the first form is never None
    raise wrong


def samples_first(_inputs: Sequence[InputSpec], arrays: Arrays) -> dict[str, Array]:
    """The arrays as they are."""
    return dict(arrays)


def one_run(inputs: Sequence[InputSpec], arrays: Arrays) -> dict[str, Array] | None:
    """One sample, which is the inputs of a whole run; None where the arrays cannot be that."""
    if not _may_be_a_run(inputs, arrays):
        return None
    return {n: np.reshape(v, -1) if n == LABELS else np.asarray(v)[np.newaxis] for n, v in arrays.items()}


def apart(inputs: Sequence[InputSpec], arrays: Arrays) -> dict[str, Array] | None:
    """The samples of one large run, each a run of its own; None where no number of samples fits all arrays.

    They lie along the first free axis of each input; inputs without one, such as a scalar, are the same for all.
    """
    if not _may_be_a_run(inputs, arrays):
        return None
    axes = {spec.name: next((i for i, d in enumerate(spec.shape) if d is None), None) for spec in inputs}
    counts = {np.shape(arrays[name])[axis] for name, axis in axes.items() if axis is not None}
    if len(counts) != 1:
        return None
    count = counts.pop()
    own = {name: _along(arrays[name], axis, count) for name, axis in axes.items()}
    return own | {n: np.asarray(v) for n, v in arrays.items() if n == LABELS}


def _along(array: Array, axis: int | None, count: int) -> Array:
    """Samples first, each with an axis of one sample where they lay; views."""
    if axis is None:
        return np.broadcast_to(array, (count, *np.shape(array)))
    return np.expand_dims(np.moveaxis(array, axis, 0), axis + 1)


def _may_be_a_run(inputs: Sequence[InputSpec], arrays: Arrays) -> bool:
    """True for inputs of the right ranks that share no first axis, as far as the graph or the arrays tell."""
    if any(s.name not in arrays or np.ndim(arrays[s.name]) != len(s.shape) for s in inputs):
        return False
    firsts = [np.shape(arrays[s.name])[:1] for s in inputs]
    return (1,) in firsts or any(s.shape[:1] != (None,) for s in inputs)
