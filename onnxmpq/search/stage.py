"""search: the plan beside rivals that look at no costs, by the loss of the network as a whole.

Costs of layers add up nearly, not quite. So on samples that they were not measured on the plan is compared with the uniform
one, and with widths by the sizes of layers. A rival is kept if it betters the loss on each half of the samples, so that it
is not their noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan

from onnxmpq.allocate.choose import counts_fit, file_fits
from onnxmpq.allocate.stage import allocate
from onnxmpq.budgets.budget import needing
from onnxmpq.budgets.kind import Needs
from onnxmpq.context.setting import Setting
from onnxmpq.lower.draft import Lowering
from onnxmpq.lower.lower_plan import simulate
from onnxmpq.metrics.network_evaluator import NetworkEvaluator
from onnxmpq.sensitivity.methods import adds_up
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.stage import probe_of, whole_table
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Options
from onnxmpq.values.plan import Plan, average_bits, weight_bytes
from onnxmpq.values.report import SearchReport

_SAME = 0.95  # of a plan's bits: a smaller plan leaves some of the budget unused, and is no rival

Meets = Callable[[Plan], bool]
Losses = Callable[[Plan], Iterator[float]]  # of the network as a whole on each half of the samples


def is_searched(setting: Setting) -> bool:
    """True where the plan was chosen by measured costs that add up nearly, under budgets that are counted."""
    request = setting.request
    ours = adds_up(request.search.method) and not request.is_measured
    return setting.forced is None and ours and setting.splits.held is not None


def search(lowering: Lowering, plan: Plan) -> tuple[Plan, SearchReport]:
    """The plan, or the best of its rivals that are about as large, meet the budgets and better it, file included."""
    setting, losses = lowering.setting, judge(lowering, plan)
    layers, budgets = setting.prepared.layers, setting.request.constraints.budgets
    meets, least = within(setting, plan), _SAME * average_bits(layers, plan)
    best, rival = plan, None
    before = after = list(losses(plan))
    for name, other in rivals(lowering, plan, meets).items():
        if other != plan and meets(other) and average_bits(layers, other) >= least:
            found = bettered(losses(other), after)
            if found is not None and file_fits(budgets, other, lowering.file_size):
                best, rival, after = other, name, found
    if rival is not None:
        setting.stages.note(f"{rival} did better on samples held out than widths by the measured costs")
    return best, SearchReport(sum(before) / 2, sum(after) / 2, rival)


def bettered(found: Iterator[float], known: Sequence[float]) -> list[float] | None:
    """The losses where each is lower than that known, measured no further than that; any number betters none."""
    lower = []
    for old, new in zip(known, found, strict=False):
        if not (new < old or (isnan(old) and not isnan(new))):
            return None
        lower.append(new)
    return lower


def rivals(lowering: Lowering, plan: Plan, meets: Meets) -> dict[str, Plan]:
    """Plans that look at no costs, and compute as the plan does: the network's Q/DQ pairs stay where they are."""
    setting = lowering.setting
    options = {
        name: [o for o in choices if o.activation_bits == plan[name].activation_bits]
        for name, choices in setting.options.items()
    }
    costs = whole_table(size(probe_of(setting, lowering.candidates)), setting.options)
    uniform = uniform_plan(setting.prepared.layers, options, meets)
    found = {} if uniform is None else {"the uniform plan": uniform}
    found["widths by the sizes of layers"] = allocate(lowering, costs, None)
    return {name: some for name, some in found.items() if all(some[n] in options[n] for n in options)}


def uniform_plan(layers: Sequence[Layer], options: Options, meets: Meets) -> Plan | None:
    """Every layer at the widest width that meets the budgets for all, or as near below as it may be; None if none."""
    widths = sorted({o.weight_bits for choices in options.values() for o in choices}, reverse=True)
    for width in widths:
        chosen = {}
        for layer in layers:
            choices = sorted(options[layer.name])
            chosen[layer.name] = max((o for o in choices if o.weight_bits <= width), default=choices[0])
        if meets(Plan(chosen)):
            return Plan(chosen)
    return None


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

    def losses(some: Plan) -> Iterator[float]:
        return evaluator.losses(lowering.candidates.under(prepared.layers, some), halves)

    return losses


def within(setting: Setting, plan: Plan) -> Meets:
    """Whether another plan meets the budgets too; for one on the file, whether it stores no more than this plan."""
    layers, budgets = setting.prepared.layers, setting.request.constraints.budgets
    most = weight_bytes(layers, plan) if needing(budgets, Needs.FILE) else None

    def meets(some: Plan) -> bool:
        fits = most is None or weight_bytes(layers, some) <= most
        return fits and counts_fit(budgets, layers, some)

    return meets
