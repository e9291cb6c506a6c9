"""The compile, stage by stage: the page to read first.

load -> prepare -> place -> calibrate -> round -> sensitivity -> (time) -> allocate -> (search) -> (requantize) -> write
-> verify. Each arrow is one frozen value: `Loaded`, `Prepared`, `Placed`, `Setting` (what all later stages look at),
`Lowering` (the rounded weights, and what makes a file of any plan), `CostTable` or `Trajectory`, `Plan`, `Draft` (the
plan and its weights), the model, `Report`. The stages are the files of `onnxmpq.stages`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxmpq.allocate.stage import allocate
from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.calibrators import find_calibrator
from onnxmpq.calibrate.stage import calibrate
from onnxmpq.check.forced import narrowed
from onnxmpq.check.stage import check
from onnxmpq.context.loaded import Loaded
from onnxmpq.data import DataSource
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.load.stage import load
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.observer import Observer, Stages
from onnxmpq.onnx_io.model_file import written_model
from onnxmpq.place.stage import place
from onnxmpq.requantize.stage import is_requantized, requantize
from onnxmpq.request import (
    DEFAULT_BITS,
    Request,
    Sources,
    default_output,
    parse_budgets,
    parse_keeps,
    parse_saved,
    parse_target,
    parse_widths,
)
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.rounding.stage import round_weights
from onnxmpq.search.stage import is_searched, search, told
from onnxmpq.search.swaps import Search
from onnxmpq.sensitivity.methods import find_method
from onnxmpq.sensitivity.stage import measure
from onnxmpq.timing.stage import time_layers
from onnxmpq.values.arrays import Shape
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.effort import find_effort
from onnxmpq.values.keep import Keep
from onnxmpq.values.report import Report
from onnxmpq.verify.stage import Compiled, report_on


def compile_model(
    model: str | os.PathLike[str],
    budgets: Sequence[Budget | str],
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
    save_sensitivity: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
) -> Report:
    """Compile a model file into a mixed-precision file that meets every budget, and say what became of it.

    `data`, `evaluation` and `training` are what `open_data` takes; the last is for methods that train, by default
    those of `data` that weights are rounded against. `activations` is "int8", "int16", "int4" or "fp32" (default with real data: the target's first, int8 of
    ours; fp32 without), `calibrator` chooses their ranges: "mean_minmax_3sigma", "minmax", "percentile", "entropy", "mse" or
    `file.py:function`. The file is written to `output`, by default `MODEL.mpq.onnx` beside the model. What the
    method finds is saved to `save_sensitivity` as soon as it is known; `method` takes that file's name, ending in .json.

    Raises a subclass of OnnxmpqError; no model is written then.
    """
    asked, method = parse_budgets(budgets), os.fspath(method)
    request = Request(
        budgets=asked, keeps=parse_keeps(keep), target=parse_target(target, storage, isa, activations),
        widths=parse_widths(bits, asked), activations=activations,
        calibrator=None if calibrator is None else find_calibrator(calibrator),
        rounding=rounding, method=find_method(method), effort=find_effort(effort), metric=metric, provider=provider,
        seed=seed, verify=verify, force=force,
    )  # fmt: skip
    sources = Sources(
        model=Path(model), output=default_output(Path(model)) if output is None else Path(output), data=data,
        evaluation=evaluation, training=training, preprocess=preprocess, shapes=shapes or {}, samples=samples,
        method=method, sensitivity=None if save_sensitivity is None else parse_saved(Path(save_sensitivity)),
    )  # fmt: skip
    return compiled(sources, request, Stages(observer or Observer()))


def compiled(sources: Sources, request: Request, stages: Stages) -> Report:
    """The line itself."""
    with stages("load"):
        loaded = load(sources, request, stages)
    lowering = rounded(loaded)
    with stages("sensitivity"):
        lowering = narrowed(lowering)
        costs = measure(lowering.setting, lowering.candidates, sources.sensitivity)
    draft, found = drafted(lowering, costs)
    with stages("write"):
        written = draft.written()
    with written_model(written, sources.output, protect=sources.protected) as file, stages("verify"):
        outcome = Compiled(
            sources.model, sources.output, draft.prepared, draft.units, draft.placement, draft.plan, request.target, costs,
            loaded.evidence, file, request.effort.name, told(found), loaded.file_bytes,
        )  # fmt: skip
        return report_on(
            outcome, request.budgets, draft.candidates, loaded.runtime, loaded.session, stages,
            verify=request.verify,
        )  # fmt: skip


def rounded(loaded: Loaded) -> Lowering:
    """From the model to its rounded weights: what does not depend on the budget, unless that leaves one plan only."""
    stages = loaded.stages
    with stages("prepare"):
        placed = place(loaded, prepare_model(loaded))
        check(loaded, placed)
    with stages("calibrate"):
        setting = calibrate(loaded, placed)
    with stages("round"):
        return round_weights(setting)


def drafted(lowering: Lowering, costs: Sensitivity) -> tuple[Draft, Search | None]:
    """From what the options cost to the plan and its weights, and what the search came to where there was one."""
    setting = lowering.setting
    stages, times, found = setting.stages, None, None
    if setting.request.is_timed:
        with stages("time"):
            times = time_layers(lowering)
    lowering = lowering.over(costs)
    with stages("allocate"):
        plan = allocate(lowering, costs, times)
    if isinstance(costs, CostTable) and is_searched(setting):
        with stages("search"):
            found = search(lowering, plan, costs)
            plan = found.plan
    draft = lowering.draft(plan)
    if is_requantized(draft):
        with stages("requantize"):
            draft = requantize(draft)
    return draft, found
