"""Ranges of activations, streamed: one sample at a time, a few numbers kept per tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.activations.placement import Placement
from onnxmpq.activations.ranges import ActivationRange, range_of
from onnxmpq.data import Dataset
from onnxmpq.engine import Runtime, Session
from onnxmpq.errors import DataError
from onnxmpq.model.modelfile import export_model, import_graph
from onnxmpq.observer import Progress
from onnxmpq.passes.matching import read
from onnxmpq.passes.tap_tensors import TapTensors, tap_name

__all__ = ["ActivationRange", "calibrate"]

Doubles = NDArray[np.float64]

_REDUCTIONS = ("ReduceMin", "ReduceMax")


def calibrate(
    runtime: Runtime,
    model: onnx.ModelProto,
    placement: Placement,
    dataset: Dataset,
    *,
    deviations: float = 3.0,
    signed: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, ActivationRange]:
    """The range of every tensor of `placement` over the samples of `dataset` that hold any values of it.

    Each has its own (see `Placement.shared`); a tensor that is empty in all samples (a detector that finds nothing)
    gets none.

    A tensor's smallest and largest value in each sample are taken by the runtime; its range goes from the mean
    of the smallest less `deviations` standard deviations to the mean of the largest plus as many, but never
    beyond what was seen. A rare outlier then costs itself, and not the resolution of all others. Measured against
    min-max and against histograms clipped at a percentile or for the least squared error: as good as the best.
    `signed` ranges are symmetric.

    Memory is that of one run, whatever the number of samples. `progress` hears (samples done, samples in all).
    Raises DataError where a tensor is not finite, EngineError where the runtime cannot run the model.
    """
    graph = import_graph(model)
    known = graph.tensors()
    constants = {
        name: read(known[name]) for name in placement.tensors if isinstance(known[name], gs.Constant)
    }
    ends = {name: (float(v.min()), float(v.max())) for name, v in constants.items()}
    measured = tuple(name for name in placement.tensors if name not in constants)
    if measured:
        TapTensors(measured, _REDUCTIONS)(graph)
        session = runtime.session(export_model(graph, model), spin=False)
        typical = _typical_extremes(_extremes(session, measured, dataset, progress), deviations)
        seen = zip(measured, typical.T, strict=True)
        ends |= {
            name: (float(low), float(high)) for name, (low, high) in seen if np.isfinite([low, high]).all()
        }
    return {name: range_of(*ends[name], signed=signed) for name in placement.tensors if name in ends}


def _extremes(
    session: Session, tensors: Sequence[str], dataset: Dataset, progress: Progress
) -> Iterator[Doubles]:
    """The smallest and the largest value of each tensor, [2, tensors], sample by sample; inf and -inf where empty."""
    taps = [tap_name(tensor, reduction) for reduction in _REDUCTIONS for tensor in tensors]
    done = 0
    for batch in dataset.batches(1):
        outputs = session.run(batch.feeds, taps)
        values = np.array([outputs[tap] for tap in taps], np.float64).reshape(2, -1)
        _require_finite(values, tensors)
        yield values
        done += batch.count
        progress(done, dataset.count)


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


def _typical_extremes(stream: Iterable[Doubles], deviations: float) -> Doubles:
    """Lower and upper end per tensor, [2, tensors], by Welford's running mean and variance; inf, -inf if never seen."""
    count, mean, squares = np.zeros(()), np.zeros(()), np.zeros(())
    lowest, highest = np.array(np.inf), np.array(-np.inf)
    for values in stream:
        seen = ~_is_empty(values)
        count = count + seen
        known = np.where(seen, values, mean)
        step = known - mean
        mean = mean + step / np.maximum(count, 1)
        squares = squares + step * (known - mean)
        lowest, highest = np.minimum(lowest, values[0]), np.maximum(highest, values[1])
    spread = deviations * np.sqrt(squares / np.maximum(count, 1))
    return np.stack([np.maximum(mean[0] - spread[0], lowest), np.minimum(mean[1] + spread[1], highest)])
