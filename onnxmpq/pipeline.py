"""The compile, stage by stage: the page to read first.

load -> normalize -> place -> calibrate -> round -> sensitivity -> (time) -> allocate -> (activations) -> (search) ->
(requantize) -> write -> verify. Each arrow is one frozen value: `Loaded`, `Prepared`, `Placed`, `Setting` (what all later stages look at),
`Lowering` (the rounded weights, and what makes a file of any plan), `CostTable` or `Trajectory`, `Plan`, `Draft` (the
plan and its weights), the model, `Report`. Each stage is the `stage.py` of its folder.
"""

from __future__ import annotations

from onnxmpq.activations.stage import Choice, choose_activations
from onnxmpq.allocate.stage import allocate
from onnxmpq.calibrate.stage import calibrate
from onnxmpq.check.stage import check, narrowed
from onnxmpq.context.setting import Loaded
from onnxmpq.forecast.stage import expected_work, sooner
from onnxmpq.load.stage import load
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.lower.save_plan import save_plan
from onnxmpq.normalize.stage import prepare_model, within_kernels
from onnxmpq.observer import Stages
from onnxmpq.onnx_io.model_file import written_model
from onnxmpq.place.stage import place
from onnxmpq.requantize.stage import is_requantized, requantize
from onnxmpq.request import Request, Sources
from onnxmpq.rounding.stage import round_weights
from onnxmpq.runtime.workers import Workers, open_workers
from onnxmpq.search.stage import is_searched, search
from onnxmpq.sensitivity.stage import measure
from onnxmpq.timing.stage import time_layers
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.report import Report, SearchReport
from onnxmpq.verify.stage import Compiled, report_on


def compiled(sources: Sources, request: Request, stages: Stages) -> Report:
    """The line itself, with those who work for it."""
    with open_workers(request.run.workers, request.run.cluster, request.run.provider) as workers:
        return compiled_by(workers, sources, request, stages)


def compiled_by(workers: Workers, sources: Sources, request: Request, stages: Stages) -> Report:
    """The line itself."""
    with stages("load"):
        loaded = load(sources, request, stages, workers)
    lowering = rounded(loaded)
    with stages("sensitivity"):
        lowering = narrowed(lowering)
        costs = measure(lowering.setting, lowering.candidates, sources.sensitivity)
    choice = planned(lowering, costs)
    draft, found = drafted(choice)
    with stages("write"):
        written = draft.written()
        if sources.plan is not None:
            save_plan(draft, sources.plan)
    with written_model(written, sources.output, protect=sources.protected) as file, stages("verify"):
        outcome = Compiled(
            sources.model, sources.output, draft.prepared, draft.units, draft.placement, draft.plan, draft.setting.request.target, choice.costs,
            loaded.evidence, file, request.search.effort.name, found, loaded.file_bytes,
        )  # fmt: skip
        return report_on(
            outcome, request.constraints.budgets, draft.candidates, loaded.runtime, loaded.session, stages,
            verify=request.run.verify,
        )  # fmt: skip


def rounded(loaded: Loaded) -> Lowering:
    """From the model to its rounded weights: what does not depend on the budget, unless that leaves one plan only."""
    stages = loaded.stages
    with stages("normalize"):
        prepared = prepare_model(loaded)
        loaded = within_kernels(loaded, prepared)
        placed = place(loaded, prepared)
        check(loaded, placed)
    with stages("calibrate"):
        setting = calibrate(loaded, placed)
    stages.expect(expected_work(setting), sooner(loaded.request))
    with stages("round"):
        return round_weights(setting)


def planned(lowering: Lowering, costs: Sensitivity) -> Choice:
    """From what the options cost to the plan, its layers in integers where they pay."""
    request, stages, times = lowering.setting.request, lowering.setting.stages, None
    if request.is_timed:
        with stages("time"):
            times = time_layers(lowering)
    lowering = lowering.over(costs)
    with stages("allocate"):
        choice = Choice(lowering, costs, allocate(lowering, costs, times))
    if not request.chooses_activations or request.is_timed:
        return choice
    with stages("activations"):
        return choose_activations(choice)


def drafted(choice: Choice) -> tuple[Draft, SearchReport | None]:
    """From the plan to its weights, and what the search came to where there was one."""
    lowering, plan, found = choice.lowering, choice.plan, None
    stages = lowering.setting.stages
    if isinstance(choice.costs, CostTable) and is_searched(lowering.setting):
        with stages("search"):
            plan, found = search(lowering, plan)
    draft = lowering.draft(plan)
    if is_requantized(draft):
        with stages("requantize"):
            draft = requantize(draft)
    return draft, found
