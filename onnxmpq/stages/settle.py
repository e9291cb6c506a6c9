"""settle: the plan's layers rounded once more, each against what it really gets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from onnxmpq.spec import Option
from onnxmpq.stages.lowering import Draft
from onnxmpq.stages.setting import Setting
from onnxmpq.stages.temper import file_loss, tempered
from onnxmpq.weights.candidates import Candidates
from onnxmpq.weights.settle import settled

_SETTLED_BELOW = 7  # bits


def is_settled(draft: Draft) -> bool:
    """True where settling pays and layers are whole: groups of channels keep their codes."""
    whole = all(layer.part_of is None for layer in draft.prepared.layers)
    return whole and settling_pays(draft.setting, draft.plan.options.values())


def settling_pays(setting: Setting, options: Iterable[Option]) -> bool:
    """True where rounding looks at real inputs and some narrow option leaves something to make up for.

    Seven bits and more lose next to nothing, and what is fitted to noise has learned noise.
    """
    fits = setting.request.rounding == "compensated" and not setting.shares.rounding.synthetic
    return fits and any(option.weight_bits < _SETTLED_BELOW for option in options)


def settle(draft: Draft) -> Draft:
    """The draft rounded again if the network is the better for it, else as it was; said."""
    note = draft.setting.stages.note
    after, losses = settled_draft(draft)
    kept = "" if after is not draft else ", so the first rounding is kept"
    note(
        f"rounded again behind quantized layers: {draft.prepared.metric.name} {losses[0]:.3g} -> {losses[1]:.3g} on "
        f"calibration samples{kept}"
    )
    after, factor = tempered(after, settled=after is not draft)
    if factor != 1:
        note(f"logits scaled by {factor:.2f}, so that the network is as sure of its classes as the float one")
    return after


def settled_draft(draft: Draft) -> tuple[Draft, tuple[float, float]]:
    """The better draft of the two, and the losses before and after on the calibration samples."""
    after = replace(draft, candidates=rounded_again(draft))
    before, behind = (file_loss(some) for some in (draft, after))
    return after if behind < before or math.isnan(before) else draft, (before, behind)


def shipped(draft: Draft) -> Draft:
    """The draft as its file would have it."""
    if not is_settled(draft):
        return draft
    after, _ = settled_draft(draft)
    return tempered(after, settled=after is not draft)[0]


def rounded_again(draft: Draft) -> Candidates:
    """Every layer against what the network feeds it, which has the plan's Q/DQ pairs on activations."""
    setting = draft.setting
    settler = draft.settler(setting.shares.rounding, setting.request.effort.settle)
    return settled(
        settler, draft.prepared.layers, draft.plan, draft.candidates, setting.stages.observer.progress
    )
