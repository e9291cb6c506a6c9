"""Ranges of activations, streamed: the memory of one run, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.calibrate.calibrators import CALIBRATORS, Calibrator
from onnxmpq.calibrate.extremes import REDUCTIONS, measure_extremes
from onnxmpq.calibrate.histograms import PICKED, empty_histogram, fill_histograms
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.data import Dataset
from onnxmpq.errors import OptionError
from onnxmpq.observer import Progress
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.tap_bins import TapBins
from onnxmpq.passes.expose.tap_tensors import TapTensors
from onnxmpq.passes.matching import read
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.activation_range import UINT8, ActivationRange, CodeType, range_of
from onnxmpq.values.placement import Placement


def calibrate(
    runtime: Runtime,
    model: onnx.ModelProto,
    placement: Placement,
    dataset: Dataset,
    calibrator: Calibrator = CALIBRATORS["mean_minmax_3sigma"],
    *,
    codes: CodeType = UINT8,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, ActivationRange]:
    """The range of every tensor of `placement`, spare ones too, over the samples of `dataset` that hold any values of it.

    Each has its own (see `Placement.shared`), a constant from its least to its largest value; a tensor that is empty
    in all samples (a detector that finds nothing) gets none. No range goes beyond what was seen.

    `progress` hears (samples done, samples in all), each sample twice where `calibrator` looks at histograms.
    Raises DataError where a tensor is not finite, EngineError where the runtime cannot run the model, OptionError where
    the calibrator gives no interval.
    """
    known, wanted = import_graph(model).tensors(), (*placement.tensors, *placement.spare)
    constants = {n: read(known[n]) for n in wanted if isinstance(known[n], gs.Constant)}
    ranges = {name: range_of(float(v.min()), float(v.max()), codes) for name, v in constants.items()}
    measured = tuple(name for name in wanted if name not in constants)
    statistics = gather_statistics(runtime, model, measured, dataset, calibrator.bins, progress=progress)
    ranges |= {
        name: range_of(*_interval(name, seen, calibrator, codes), codes) for name, seen in statistics.items()
    }
    return {name: ranges[name] for name in wanted if name in ranges}


def gather_statistics(
    runtime: Runtime,
    model: onnx.ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    bins: int,
    *,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Statistics]:
    """What calibrators look at, by tensor; tensors that are empty in all samples are left out.

    Extremes take one pass over the data, histograms (where `bins` is not 0) a second one with their bins then known.
    """
    if not tensors:
        return {}
    passes = dataset.count * (2 if bins else 1)
    model = tapped(model, TapTensors(tuple(tensors), REDUCTIONS))
    extremes = measure_extremes(
        runtime.on_one_thread().session(model, spin=False),
        tensors,
        dataset,
        lambda done: progress(done, passes),
    )
    known = {
        name: some for name, some in zip(tensors, extremes.T.tolist(), strict=True) if some[0] <= some[1]
    }
    histograms = {name: empty_histogram(low, high, bins) for name, (low, high, *_) in known.items()}
    if bins and histograms:
        model = tapped(model, TapBins({name: h.width for name, h in histograms.items()}, PICKED))
        histograms = fill_histograms(
            runtime.session(model, spin=False), histograms, dataset,
            lambda done: progress(dataset.count + done, passes),
        )  # fmt: skip
    return {
        name: Statistics(low, high, mean_low, mean_high, deviation_low, deviation_high, histograms[name])
        for name, (low, high, mean_low, mean_high, deviation_low, deviation_high) in known.items()
    }


def tapped(model: onnx.ModelProto, taps: Callable[[gs.Graph], bool]) -> onnx.ModelProto:
    """The model with what a pass of taps adds to its outputs."""
    graph = import_graph(model)
    taps(graph)
    return export_model(graph, model)


def _interval(name: str, seen: Statistics, calibrator: Calibrator, codes: CodeType) -> tuple[float, float]:
    """What the calibrator chooses, within what was seen."""
    try:
        low, high = map(float, calibrator.interval(seen, codes))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise OptionError(
            f"the calibrator failed on tensor {name!r}: {type(error).__name__}: {error}; wanted a function (Statistics, CodeType) -> (low, high)"
        ) from error
    if not low <= high:  # nor where one of them is NaN
        raise OptionError(
            f"the calibrator gave {low} to {high} for tensor {name!r}; wanted its lower and its upper end"
        )
    return max(low, seen.lowest), min(high, seen.highest)
