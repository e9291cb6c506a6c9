"""allocate: the plan of least cost that meets every budget, or the first one of a path that does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from onnxmpq.allocation.choose import choose_plan, plans_tried
from onnxmpq.allocation.follow import follow
from onnxmpq.allocation.timed import TimeTable, time_row, within_time
from onnxmpq.observer import Attempts, Stages
from onnxmpq.plan import Plan, Sensitivity, Trajectory
from onnxmpq.stages.lowering import Lowering
from onnxmpq.stages.settle import shipped


def allocate(lowering: Lowering, costs: Sensitivity, times: TimeTable | None) -> Plan:
    """`times` are wanted where a budget is on latency. Raises InfeasibleError with the least that can be reached."""
    setting = lowering.setting
    layers, budgets = lowering.layers, setting.request.budgets

    attempts = Attempts(setting.stages.observer.progress, plans_tried(layers, setting.choices))
    tried = replace(lowering, setting=replace(setting, stages=Stages(attempts)))

    def loss(plan: Plan) -> float:
        attempts.begin()
        return shipped(tried.draft(plan)).loss()

    if isinstance(costs, Trajectory):
        return follow(costs, layers, budgets, lowering.file_size, loss)
    choose = partial(choose_plan, costs, layers, setting.choices, budgets, lowering.file_size, loss)
    if times is None:
        return choose()
    row = time_row(budgets, layers, setting.options, times)
    return within_time(choose, row, lambda plan: times.fp32 * lowering.slowdown(plan))
