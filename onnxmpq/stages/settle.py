"""settle: the plan's layers rounded once more, each against what it really gets."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxmpq.joint import Joint
from onnxmpq.lower import simulate
from onnxmpq.plan import Plan
from onnxmpq.stages.lowering import Draft, Lowering
from onnxmpq.weights.candidates import Candidates
from onnxmpq.weights.settle import Settler, settled


def is_settled(lowering: Lowering, plan: Plan) -> bool:
    """True where rounding looks at inputs and something is rounded; groups of channels keep their codes."""
    compensated = lowering.setting.request.rounding == "compensated" and not lowering.units
    return compensated and any(option.is_quantized for option in plan.options.values())


def settle(draft: Draft) -> Draft:
    """The draft rounded again if the network is the better for it, else as it was."""
    setting, metric = draft.setting, draft.prepared.metric
    network = simulate(draft.prepared, draft.plan, setting.quantized)
    after = replace(draft, candidates=rounded_again(draft, network))
    joint = Joint(setting.runtime, draft.prepared.model, network, metric, draft.prepared.batch_size)
    losses = [joint.loss(some.constants, setting.shares.rounding) for some in (draft, after)]
    better = losses[1] < losses[0]
    setting.stages.note(
        f"rounded again behind quantized layers: {metric.name} {losses[0]:.3g} -> {losses[1]:.3g} on the "
        f"calibration samples{'' if better else ', so the first rounding is kept'}"
    )
    return after if better else draft


def rounded_again(draft: Draft, network: onnx.ModelProto) -> Candidates:
    """Every layer against what `network` feeds it, which has the plan's Q/DQ pairs on activations."""
    setting, prepared = draft.setting, draft.prepared
    settler = Settler(
        setting.runtime, prepared.model, network, prepared.traced, setting.shares.rounding, prepared.batch_size,
        setting.request.effort.settle,
    )  # fmt: skip
    return settled(settler, prepared.layers, draft.plan, draft.candidates, setting.stages.observer.progress)
