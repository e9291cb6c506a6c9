"""`onnxmpq eval`: a model on data, alone or against a reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.data import DataSource, open_data
from onnxmpq.data.find_padding import find_padding
from onnxmpq.data.input_shapes import agree, is_batchable
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.data.samples import dims
from onnxmpq.errors import DataError, OptionError
from onnxmpq.metrics.choose_metric import choose_metric
from onnxmpq.metrics.latency import measure_latency
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.output_kinds import parse_outputs
from onnxmpq.metrics.score import check_label_range, compare, glance
from onnxmpq.normalize.prepare import runnable
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.runtime.requirements import suited
from onnxmpq.runtime.session import Runtime, Session, resolve_runtime
from onnxmpq.values.arrays import Array
from onnxmpq.values.latency import Latency
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import Score

_BATCH = 32
_OF_ONE_MODEL = "--reference is for the model that the other was made from"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores and sizes of a model and of its `reference` (None: of the model itself)."""

    model: str
    reference: str | None
    data: str
    score: Score
    reference_score: Score
    file_bytes: int
    reference_bytes: int
    latency: Latency


def evaluate_model(
    model: str | os.PathLike[str],
    data: DataSource,
    *,
    reference: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | None = None,
    samples: int | None = None,
    provider: str = "auto",
    seed: int = 0,
    metric: str | None = None,
    outputs: Sequence[str] = (),
) -> Evaluation:
    """Run a model over data in a stream, interleaved with its reference; `metric` and `outputs` as for `compile_model`.

    Raises DataError where the two models' inputs or outputs differ, or the data do not fit them.
    """
    if reference is None and (metric is not None or outputs):
        raise OptionError("--metric and --outputs compare a model with another; give --reference")
    runtime = resolve_runtime(provider)
    path, other = Path(model), Path(model if reference is None else reference)
    original, judge, reference_bytes = _loaded(runtime, other)
    if reference is None:
        session, file_bytes = judge, reference_bytes
    else:
        _, session, file_bytes = _loaded(runtime, path)
    check_same_interface(session, judge, path, other)
    dataset = open_data(data, session.inputs, samples=samples, preprocess=preprocess, seed=seed)
    sample = next(iter(dataset.batches(1))).feeds
    size = _batch_size(judge, sample, seed)
    expected = judge.run(sample)
    seen = glance(judge, dataset, 1, seed)
    asked = parse_outputs(outputs)
    padding = find_padding(session.inputs, dataset, seed)
    chosen = choose_metric(original, seen, metric, asked=asked, labelled=dataset.has_labels, padding=padding)
    check_same_results(session.run(sample), expected, chosen)
    check_label_range(dataset, {name: expected[name].shape for name in chosen.kinds}, chosen)
    before, after = compare(judge, session, dataset, chosen, size)
    return Evaluation(
        str(path),
        None if reference is None else str(other),
        dataset.description,
        after,
        before,
        file_bytes,
        reference_bytes,
        measure_latency(judge, session, sample, 1),
    )


def compare_models(
    reference: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    data: DataSource,
    **asked: Any,
) -> list[Evaluation]:
    """Each model against the same reference, on the same samples; `asked` as for `evaluate_model`. Raises what that raises."""
    return [evaluate_model(model, data, reference=reference, **asked) for model in models]


def check_same_interface(session: Session, reference: Session, model: Path, other: Path) -> None:
    """Raise DataError unless both models take the same tensors and give tensors of the same names."""
    for what, ours, theirs in (
        ("inputs", [i.name for i in session.inputs], [i.name for i in reference.inputs]),
        ("outputs", list(session.outputs), list(reference.outputs)),
    ):
        if ours != theirs:
            raise DataError(
                f"{model} and {other} cannot be compared: {what} {ours} against {theirs}; {_OF_ONE_MODEL}"
            )
    for mine, its in zip(session.inputs, reference.inputs, strict=True):
        if mine.dtype != its.dtype or not agree(mine.shape, its.shape):
            raise DataError(
                f"{model} and {other} cannot be compared: input {mine.name!r} is {mine.dtype} {dims(mine.shape)} "
                f"against {its.dtype} {dims(its.shape)}; {_OF_ONE_MODEL}"
            )


def check_same_results(outputs: Mapping[str, Array], reference: Mapping[str, Array], metric: Metric) -> None:
    """Raise DataError where one sample's results differ in dtype or rank, or in their number of classes."""
    for name, theirs in reference.items():
        ours = outputs[name]
        if getattr(theirs, "dtype", None) is None or getattr(ours, "dtype", None) is None:  # sequences
            continue
        fixed = metric.kinds.get(name, OutputKind.VALUES).is_distribution
        if ours.dtype != theirs.dtype or (ours.shape != theirs.shape if fixed else ours.ndim != theirs.ndim):
            raise DataError(
                f"the models cannot be compared: output {name!r} is {ours.dtype} {list(ours.shape)} against "
                f"{theirs.dtype} {list(theirs.shape)}; {_OF_ONE_MODEL}"
            )


def _loaded(runtime: Runtime, path: Path) -> tuple[onnx.ModelProto, Session, int]:
    """A model as it runs, and the bytes of its file, external data included."""
    model = load_model(path, runtime.accepts)
    return *runnable(suited(runtime, model), model), model.ByteSize()


def _batch_size(session: Session, sample: dict[str, Array], seed: int) -> int:
    free = all(i.shape and i.shape[0] is None for i in session.inputs)
    specs = [replace(i, shape=(None, *sample[i.name].shape[1:])) for i in session.inputs if i.shape]
    return _BATCH if free and is_batchable(session, specs, seed) else 1
