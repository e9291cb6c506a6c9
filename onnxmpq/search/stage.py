"""search: plans near the chosen one, judged by the network as a whole on samples that it was not made from."""

from __future__ import annotations

from onnxmpq.allocate.choose import file_fits, rows_of, single
from onnxmpq.allocate.stage import allocate
from onnxmpq.budgets.budget import needing
from onnxmpq.budgets.kind import Known, Needs
from onnxmpq.context.setting import Setting
from onnxmpq.lower.draft import Lowering
from onnxmpq.lower.lower_plan import simulate
from onnxmpq.metrics.network_evaluator import NetworkEvaluator
from onnxmpq.search.swaps import Losses, Meets, Search, as_computed, improve, uniform_plan
from onnxmpq.sensitivity.methods import adds_up
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.stage import probe_of, whole_table
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Options
from onnxmpq.values.plan import Plan, weight_bytes
from onnxmpq.values.report import SearchReport


def is_searched(setting: Setting) -> bool:
    """True where the plan was chosen by measured costs that add up nearly, under budgets that are counted."""
    request = setting.request
    ours = adds_up(request.search.method) and not request.is_measured
    return setting.forced is None and ours and setting.splits.held is not None


LEAST_HELD = 32  # samples; fewer tell a uniform plan from a mixed one, but not one swap from another


def search(lowering: Lowering, plan: Plan, costs: CostTable) -> Search:
    """The plan, or a better one of its size whose file is within the budgets too."""
    setting = lowering.setting
    meets = within(setting, plan)
    found = improve(
        plan, costs, setting.prepared.layers, setting.options, rivals(lowering, plan, meets), meets,
        lambda some: file_fits(setting.request.constraints.budgets, some, lowering.file_size), judge(lowering, plan),
        trials(setting), setting.stages.observer.progress,
    )  # fmt: skip
    if found.rival is not None:
        setting.stages.note(f"{found.rival} did better on samples held out than widths by the measured costs")
    return found


def rivals(lowering: Lowering, plan: Plan, meets: Meets) -> dict[str, Plan]:
    """Plans of about the same size that look at no costs: where these do not add up, such a plan may be better."""
    setting = lowering.setting
    options = as_computed(plan, setting.options)
    costs = whole_table(size(probe_of(setting, lowering.candidates)), setting.options)
    found = {
        "the uniform plan": uniform_plan(setting.prepared.layers, options, meets),
        "widths by the sizes of layers": allocate(lowering, costs, None),
    }
    return {name: some for name, some in found.items() if some is not None and is_within(some, options)}


def is_within(plan: Plan, options: Options) -> bool:
    """True where every layer has one of these options."""
    return all(plan[name] in choices for name, choices in options.items())


def trials(setting: Setting) -> int:
    """How many swaps are tried."""
    held = setting.splits.held
    return setting.request.search.effort.trials if held is not None and held.count >= LEAST_HELD else 0


def judge(lowering: Lowering, plan: Plan) -> Losses:
    """Losses of plans on each half of the samples held out, activations quantized as under this plan."""
    setting = lowering.setting
    prepared, splits, asked = setting.prepared, setting.splits, setting.request.search
    held = (splits.held or splits.rounding).some(asked.effort.judge, asked.seed).remembered()
    network = simulate(prepared, plan, setting.quantized)
    evaluator = NetworkEvaluator(
        setting.runtime, prepared.model, network, prepared.metric, prepared.batch_size
    )
    halves = [
        evaluator.expected(half) for half in (held.split(0.5, asked.seed) if held.divides else (held, held))
    ]

    def losses(some: Plan) -> tuple[float, float]:
        first, second = evaluator.losses(lowering.candidates.under(prepared.layers, some), halves)
        return first, second

    return losses


def within(setting: Setting, plan: Plan) -> Meets:
    """Whether another plan meets the budgets too; for one on the file, whether it stores no more than this plan."""
    layers, budgets = setting.prepared.layers, setting.request.constraints.budgets
    most = weight_bytes(layers, plan) if needing(budgets, Needs.FILE) else None

    def meets(some: Plan) -> bool:
        rows = rows_of(budgets, layers, single(some), Known())
        fits = most is None or weight_bytes(layers, some) <= most
        return fits and all(row.holds([0] * len(layers)) for row in rows)

    return meets


def told(found: Search | None) -> SearchReport | None:
    """A search as the report has it."""
    if found is None:
        return None
    return SearchReport(found.before, found.after, found.tried, found.kept, found.rival)
