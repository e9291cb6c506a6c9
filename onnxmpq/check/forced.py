"""Budgets that leave one sensible plan only: nothing need be measured then."""

from __future__ import annotations

from dataclasses import replace

from onnxmpq.allocate.choose import FileSize, forced_plan, single
from onnxmpq.check.stage import check_budgets
from onnxmpq.context.setting import Setting
from onnxmpq.lower.draft import Lowering
from onnxmpq.values.costs import UNMEASURED, CostTable


def forced_by(setting: Setting, file_size: FileSize | None = None) -> Setting:
    """The setting with its only sensible plan, where there is one whatever the layers' costs.

    A budget on a file's bytes tells nothing as long as there is no `file_size`.
    """
    if setting.forced is not None:
        return setting
    plan = forced_plan(
        setting.request.constraints.budgets, setting.prepared.layers, setting.options, file_size
    )
    if plan is None:
        return setting
    if any(len(choices) > 1 for choices in setting.options.values()):
        setting.stages.note("sensitivity is not measured: the budget leaves one sensible plan only")
    return replace(setting, forced=single(plan))


def narrowed(lowering: Lowering) -> Lowering:
    """What files of real bytes leave to choose from. Raises InfeasibleError where none is within the budgets."""
    setting = lowering.setting
    check_budgets(setting.request, setting.prepared, setting.options, lowering.file_size)
    return replace(lowering, setting=forced_by(setting, lowering.file_size))


def unmeasured(setting: Setting) -> CostTable:
    """A table under which the forced options cost nothing and all others something."""
    costs = {
        name: {o: float(o not in setting.choices[name]) for o in choices}
        for name, choices in setting.options.items()
    }
    return CostTable(costs, setting.prepared.metric.name, UNMEASURED, 0)
