"""requantize: the plan's layers rounded once more, each against what it really gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnxmpq.allocate.choose import file_fits, single
from onnxmpq.context.setting import Setting
from onnxmpq.lower.draft import Draft
from onnxmpq.lower.lower_plan import simulate
from onnxmpq.requantize.logit_scale import best_logit_scale, file_loss, with_logit_scale
from onnxmpq.requantize.sequential import SequentialRequantizer, is_fitted, requantized
from onnxmpq.values.group import Group
from onnxmpq.values.option import Options

_REQUANTIZED_BELOW = 7  # bits


def is_requantized(draft: Draft) -> bool:
    """True where requantizing pays and layers are whole: groups of channels keep their codes."""
    whole = not any(isinstance(unit, Group) for unit in draft.units)
    return whole and requantizing_pays(draft.setting, single(draft.plan))


def requantizing_pays(setting: Setting, options: Options) -> bool:
    """True where rounding looks at real inputs, a narrow option leaves something to make up for, and a layer can.

    Seven bits and more lose next to nothing, and what is fitted to noise has learned noise.
    """
    if setting.request.quantizers.rounding == "nearest" or setting.splits.rounding.synthetic:
        return False
    found = [(la, o.weight_bits) for la in setting.prepared.layers for o in options[la.name]]
    return any(bits < _REQUANTIZED_BELOW for _, bits in found) and any(
        is_fitted(la, bits) for la, bits in found
    )


def requantize(draft: Draft) -> Draft:
    """The draft rounded again, unless the network is broken by it; said."""
    note, found = draft.setting.stages.note, requantized_draft(draft)
    broke = ", which broke the network, so the first rounding is kept" if found.broke else ""
    note(f"rounded again behind quantized layers{broke}")
    if found.factor != 1:
        note(
            f"logits scaled by {found.factor:.2f}, so that the network is as sure of its classes as the float one"
        )
    return found.draft


def shipped(draft: Draft) -> Draft:
    """The draft as its file would have it."""
    return requantized_draft(draft).draft if is_requantized(draft) else draft


@dataclass(frozen=True, slots=True)
class Requantized:
    """A draft to be shipped, the factor on its logits, and whether rounding again broke it: then it is the one before."""

    draft: Draft
    factor: float
    broke: bool


def requantized_draft(draft: Draft) -> Requantized:
    """The draft requantized, or as it is where no number comes of that, and its logits scaled."""
    again = rounded_again(draft)
    broke = not math.isfinite(file_loss(again))
    kept = draft if broke else again
    factor = best_logit_scale(kept)
    return Requantized(with_logit_scale(kept, factor), factor, broke)


def rounded_again(draft: Draft) -> Draft:
    """Every layer against what the network, with the plan's Q/DQ pairs on activations, feeds it.

    Codes of two bits may become odd ones, or others, unless the file then breaks a budget.
    """
    again = _again(draft)
    if file_fits(draft.setting.request.constraints.budgets, again.plan, lambda _: again.file_size()):
        return again
    return _again(draft, same_kind=True)


def _again(draft: Draft, *, same_kind: bool = False) -> Draft:
    layers, progress = draft.prepared.layers, draft.setting.stages.observer.progress
    after = requantized(
        requantizer_of(draft), layers, draft.plan, draft.candidates, progress, same_kind=same_kind
    )
    return replace(draft, candidates=after)


def requantizer_of(draft: Draft) -> SequentialRequantizer:
    """The float network, and the one with the plan's Q/DQ pairs on activations, over the samples of rounding."""
    setting, prepared, asked = draft.setting, draft.prepared, draft.setting.request.search
    return SequentialRequantizer(
        setting.runtime, prepared.model, simulate(prepared, draft.plan, setting.quantized), prepared.layers,
        prepared.traced, setting.splits.rounding, prepared.batch_size, asked.effort.requantize,
        seed=asked.seed, grids=setting.request.target.grids, augmentations=setting.augmentations,
    )  # fmt: skip
