"""allocate: the plan of least cost that meets every budget, or the first one of a path that does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from onnxmpq.allocate.choose import choose_plan, plans_tried
from onnxmpq.allocate.follow import follow
from onnxmpq.allocate.timed import time_row, within_time
from onnxmpq.budgets.kind import Outcome
from onnxmpq.lower.draft import Lowering
from onnxmpq.observer import Attempts, Stages
from onnxmpq.requantize.stage import shipped
from onnxmpq.values.costs import Sensitivity, Trajectory
from onnxmpq.values.latency import Latency, TimeTable
from onnxmpq.values.plan import Plan


def allocate(lowering: Lowering, costs: Sensitivity, times: TimeTable | None) -> Plan:
    """`times` are wanted where a budget is on latency. Raises InfeasibleError with the least that can be reached."""
    setting = lowering.setting
    layers, budgets = setting.prepared.layers, setting.request.constraints.budgets
    loss = judged(lowering, costs)
    if isinstance(costs, Trajectory):
        return follow(costs, lowering.units, budgets, lowering.file_size, loss)
    choose = partial(choose_plan, costs, layers, setting.choices, budgets, lowering.file_size, loss)
    if times is None:
        return choose()
    budget, row = time_row(budgets, layers, setting.options, times)

    def measured(plan: Plan) -> float:
        slowdown = lowering.slowdown(plan)
        latency = Latency(1, times.fp32, times.fp32 * slowdown, 1 / slowdown)
        return budget.reached(Outcome(layers, plan, latency=latency)) or 0.0

    return within_time(choose, row, measured)


def judged(lowering: Lowering, costs: Sensitivity) -> Callable[[Plan], float]:
    """The loss of function of plans as they would ship; each is an attempt of the stage's progress."""
    setting = lowering.setting
    path = len(costs.plans) if isinstance(costs, Trajectory) else 0
    expected = (
        math.ceil(math.log2(path + 1)) if path else plans_tried(setting.prepared.layers, setting.choices)
    )
    attempts = Attempts(setting.stages.observer.progress, expected)
    tried = replace(lowering, setting=replace(setting, stages=Stages(attempts)))

    def loss(plan: Plan) -> float:
        attempts.begin()
        return shipped(tried.draft(plan)).loss()

    return loss
