"""The extremes of tensors, streamed: one sample at a time, a few numbers kept per tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.data import Batch, Dataset
from onnxmpq.errors import DataError
from onnxmpq.passes.expose.tap_tensors import tap_name
from onnxmpq.runtime.ordered_pool import cores, map_in_threads
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Doubles

REDUCTIONS = ("ReduceMin", "ReduceMax")


def measure_extremes(
    session: Session, tensors: Sequence[str], dataset: Dataset, progress: Callable[[int], None]
) -> Doubles:
    """Lower and upper extremes over all samples, their means over samples and their deviations, [6, tensors].

    `session`, of one thread, taps the tensors by `REDUCTIONS`; `progress` hears how many samples are done. A tensor that is empty in all
    of them has inf and -inf. Means and variances run along (Welford), samples without values left out.
    Raises DataError where a tensor is not finite.
    """
    count, mean, squares = np.zeros(()), np.zeros(()), np.zeros(())
    lowest, highest = np.array(np.inf), np.array(-np.inf)
    for values in _sample_by_sample(session, tensors, dataset, progress):
        seen = ~_is_empty(values)
        count = count + seen
        known = np.where(seen, values, mean)
        step = known - mean
        mean = mean + step / np.maximum(count, 1)
        squares = squares + step * (known - mean)
        lowest, highest = np.minimum(lowest, values[0]), np.maximum(highest, values[1])
    return np.concatenate([np.stack([lowest, highest]), mean, np.sqrt(squares / np.maximum(count, 1))])


def _sample_by_sample(
    session: Session, tensors: Sequence[str], dataset: Dataset, progress: Callable[[int], None]
) -> Iterator[Doubles]:
    """The smallest and the largest value of each tensor, [2, tensors], sample by sample; inf and -inf where empty."""
    taps = [tap_name(tensor, reduction) for reduction in REDUCTIONS for tensor in tensors]
    done = 0

    def seen(batch: Batch) -> tuple[int, Doubles]:
        outputs = session.run(batch.feeds, taps)
        return batch.count, np.array([outputs[tap] for tap in taps], np.float64).reshape(2, -1)

    for count, values in map_in_threads(seen, dataset.batches(1), cores()):
        _require_finite(values, tensors)
        yield values
        done += count
        progress(done)


def _require_finite(values: Doubles, tensors: Sequence[str]) -> None:
    empty = _is_empty(values)
    for tensor, column, is_empty in zip(tensors, values.T, empty, strict=True):
        if not (is_empty or np.isfinite(column).all()):
            raise DataError(
                f"tensor {tensor!r} reached {column[0]} to {column[1]} on a calibration sample; "
                "check the preprocessing, or keep the activations in float (--activations fp32)"
            )


def _is_empty(values: Doubles) -> NDArray[np.bool_]:
    """[tensors]: what the runtime's ReduceMin and ReduceMax give for no values at all."""
    empty: NDArray[np.bool_] = (values[0] == np.inf) & (values[1] == -np.inf)
    return empty
