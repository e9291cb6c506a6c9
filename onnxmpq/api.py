"""A compile as one call: words become values here, and nowhere behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.calibrators import find_calibrator
from onnxmpq.data import DataSource
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.metrics.output_kinds import parse_outputs
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import compiled
from onnxmpq.request import (
    DEFAULT_BITS,
    Constraints,
    Quantizers,
    Request,
    Run,
    Search,
    Sources,
    default_output,
    parse_budgets,
    parse_keeps,
    parse_saved,
    parse_target,
    parse_widths,
    planned_activations,
)
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.sensitivity.methods import find_method
from onnxmpq.values.arrays import Shape
from onnxmpq.values.effort import find_effort
from onnxmpq.values.keep import Keep
from onnxmpq.values.plan_file import PlanFile
from onnxmpq.values.report import Report


def compile_model(
    model: str | os.PathLike[str],
    budgets: Sequence[Budget | str] | Budget | str = (),
    data: DataSource | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: DataSource | None = None,
    training: DataSource | None = None,
    preprocess: Preprocess | None = None,
    activations: str | None = None,
    calibrator: str | None = None,
    rounding: str = ROUNDINGS[0],
    method: str | os.PathLike[str] = "measured",
    metric: str | None = None,
    outputs: Sequence[str] = (),
    bits: Sequence[int] = DEFAULT_BITS,
    keep: Sequence[Keep | str] = (),
    shapes: Mapping[str, Shape] | None = None,
    samples: int = 512,
    effort: str = "balanced",
    target: str = "ort-cpu",
    storage: str | None = None,
    isa: str = "any",
    provider: str = "auto",
    seed: int = 0,
    verify: bool = True,
    force: bool = False,
    workers: int | str | None = None,
    cluster: str | None = None,
    save_sensitivity: str | os.PathLike[str] | None = None,
    plan: str | os.PathLike[str] | None = None,
    save_plan: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
) -> Report:
    """Compile a model file into a mixed-precision file that meets every budget, and say what became of it.

    `data`, `evaluation` and `training` are what `open_data` takes; the last is for methods that train, by default
    those of `data` that weights are rounded against. `activations` is "auto", "int8", "dynamic", "int16", "int4" or "fp32" (default with real data: auto for ONNX Runtime,
    else the target's first, int8 of ours; fp32 without), `calibrator` chooses their ranges: a name of `CALIBRATORS` or
    `file.py:function`. The file is written to `output`, by default `MODEL.mpq.onnx` beside the model. What the
    method finds is saved to `save_sensitivity` as soon as it is known; `method` takes that file's name, ending in .json.

    `metric` is one of METRICS or `file.py:function`, from the outputs of both models (dicts of arrays, of one run) to a
    number, lower is better; `outputs` says what some hold: NAME=classes, probabilities, embedding, values, heatmap or
    positions.

    `workers` (a number, or "auto") are processes on this machine, and `cluster` is the address of a running Dask scheduler, that
    round and measure in place of this process; the file is the same.

    What every layer was given is written to `save_plan`, as JSON; `plan` takes such a file, maybe edited, in place of budgets.

    Raises a subclass of OnnxmpqError; no model is written then.
    """
    asked, method = parse_budgets(budgets), os.fspath(method)
    planned = None if plan is None else PlanFile.read(Path(plan))
    activations = planned_activations(planned, activations)
    request = Request(
        constraints=Constraints(budgets=asked, widths=parse_widths(bits, asked), keeps=parse_keeps(keep), plan=planned),
        quantizers=Quantizers(
            rounding=rounding, activations=activations,
            calibrator=None if calibrator is None else find_calibrator(calibrator),
        ),
        target=parse_target(target, storage, isa, activations),
        search=Search(
            method=find_method(method), effort=find_effort(effort), metric=metric, outputs=parse_outputs(outputs),
            seed=seed,
        ),
        run=Run(provider, verify, force, workers, cluster),
    )  # fmt: skip
    sources = Sources(
        model=Path(model), output=default_output(Path(model)) if output is None else Path(output), data=data,
        evaluation=evaluation, training=training, preprocess=preprocess, shapes=shapes or {}, samples=samples,
        method=method, sensitivity=None if save_sensitivity is None else parse_saved(Path(save_sensitivity)),
        plan=None if save_plan is None else Path(save_plan),
    )  # fmt: skip
    return compiled(sources, request, Stages(observer or Observer()))
