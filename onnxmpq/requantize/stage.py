"""requantize: the plan's layers rounded once more, each against what it really gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from onnxmpq.allocate.choose import file_fits, single
from onnxmpq.context.setting import Setting
from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.lower.draft import Draft
from onnxmpq.lower.lower_plan import simulate
from onnxmpq.metrics.metric import Sums
from onnxmpq.observer import Observer, Progress, Stages
from onnxmpq.requantize.logit_scale import best_logit_scale, file_losses, with_logit_scale
from onnxmpq.requantize.sequential import SequentialRequantizer, is_fitted, requantized
from onnxmpq.rounding.stage import rounded_weights
from onnxmpq.values.group import Group

_REQUANTIZED_BELOW = 7  # bits
_BEYOND_CHANCE = 2.0  # standard errors
_FEWEST_GROUPS = 8  # of samples that tell what is chance


def is_requantized(draft: Draft) -> bool:
    """True where rounding looks at real inputs, a narrow layer leaves something to make up for, and some layer can.

    Seven bits and more lose next to nothing, what is fitted to noise has learned noise, and groups of channels keep their
    codes.
    """
    setting = draft.setting
    if setting.request.quantizers.rounding == "nearest" or setting.splits.rounding.synthetic:
        return False
    if any(isinstance(unit, Group) for unit in draft.units):
        return False
    bits = {layer: draft.plan[layer.name].weight_bits for layer in draft.prepared.layers}
    fitted = any(is_fitted(layer, own) for layer, own in bits.items())
    return fitted and min(bits.values()) < _REQUANTIZED_BELOW


def requantize(draft: Draft) -> Draft:
    """The draft rounded again, unless the network is the worse for it; said."""
    note, found = draft.setting.stages.note, requantized_draft(draft)
    note(f"rounded again behind quantized layers{told(found, draft.setting)}")
    if found.factor != 1:
        note(
            f"logits scaled by {found.factor:.2f}, so that the network is as sure of its classes as the float one"
        )
    return found.draft


def told(found: Requantized, setting: Setting) -> str:
    """What a trial came to, and what ships."""
    kept = "" if found.helped else ", so the first rounding is kept"
    if not setting.request.search.effort.tries:
        return f", which broke the network{kept}" if kept else ""
    splits, count = setting.splits, setting.splits.judging.count
    others = "" if splits.judging is splits.requantizing else "other "
    within_chance = ", within chance" if found.helped and found.behind > found.before else ""
    return (
        f": {setting.prepared.metric.name} {found.before:.3g} -> {found.behind:.3g} in a trial on {count} {others}calibration "
        f"sample{'s' if count > 1 else ''}{within_chance}{kept}"
    )


def shipped(draft: Draft) -> Draft:
    """The draft as its file would have it."""
    return requantized_draft(draft).draft if is_requantized(draft) else draft


@dataclass(frozen=True, slots=True)
class Requantized:
    """A draft to be shipped, the losses of a trial before and behind requantizing, and the factor on its logits.

    `doubt` is the standard error of the losses' difference, each sample's being held against its own.
    """

    draft: Draft
    before: float
    behind: float
    doubt: float
    factor: float = 1.0

    @property
    def helped(self) -> bool:
        """False where requantizing raised the trial's loss, by two standard errors of the differences of its groups or more."""
        if not math.isfinite(self.before):
            return True
        return self.behind < self.before or self.behind - self.before < _BEYOND_CHANCE * self.doubt


def requantized_draft(draft: Draft) -> Requantized:
    """The draft requantized or as it is, and its logits scaled.

    Whether requantizing helps and by how much to scale, one half of the samples tells of a trial on the other. What ships
    is requantized on all, up to as many as the effort allows, in all their augmentations. An effort that does not try
    requantizes at once on some samples; the others tell by how much to scale.
    """
    setting, progress = draft.setting, draft.setting.stages.observer.progress
    splits, augmentations = setting.splits, setting.augmentations
    if setting.request.search.effort.tries:
        before = rounded_on(splits.requantizing, draft)
        trial = rounded_again(before, splits.requantizing, NO_AUGMENTATION, _turn(progress, 0))
        found = compared(before, trial)
    else:
        before, trial = draft, rounded_again(draft, splits.requantizing, augmentations, progress)
        # The others do not tell whether it helps: the first rounding saw them. Only what broke is not shipped.
        found = replace(compared(draft, trial), doubt=math.inf)
    factor = best_logit_scale(trial if found.helped else before)
    final = trial if found.helped else draft
    if found.helped and setting.request.search.effort.tries:
        final = rounded_again(draft, splits.rounding, augmentations, _turn(progress, 1))
    return replace(found, draft=with_logit_scale(final, factor), factor=factor)


def rounded_on(data: Dataset, draft: Draft) -> Draft:
    """The plan's first rounding against such samples only: one that saw those that judge would be judged too well."""
    setting = draft.setting
    if data is setting.splits.rounding:
        return draft
    silent = replace(
        setting, stages=Stages(Observer()), forced=single(draft.plan), augmentations=NO_AUGMENTATION
    )
    return replace(draft, candidates=rounded_weights(silent, data))


def rounded_again(draft: Draft, data: Dataset, augmentations: Augmentations, progress: Progress) -> Draft:
    """Every layer against what the network, with the plan's Q/DQ pairs on activations, feeds it over such data.

    Codes of two bits may become odd ones, or others, unless the file then breaks a budget.
    """
    again = _again(draft, data, augmentations, progress)
    if file_fits(draft.setting.request.constraints.budgets, again.plan, lambda _: again.file_size()):
        return again
    return _again(draft, data, augmentations, progress, same_kind=True)


def _again(
    draft: Draft, data: Dataset, augmentations: Augmentations, progress: Progress, *, same_kind: bool = False
) -> Draft:
    setting, prepared = draft.setting, draft.prepared
    requantizer = SequentialRequantizer(
        setting.runtime, prepared.model, simulate(prepared, draft.plan, setting.quantized), prepared.layers,
        prepared.traced, data, prepared.batch_size, setting.request.search.effort.requantize,
        seed=setting.request.search.seed, grids=setting.request.target.grids, augmentations=augmentations,
    )  # fmt: skip
    after = requantized(
        requantizer, prepared.layers, draft.plan, draft.candidates, progress, same_kind=same_kind
    )
    return replace(draft, candidates=after)


def _turn(progress: Progress, number: int) -> Progress:
    """The progress of the first of two turns, or of the second."""
    return lambda done, total: progress(number * total + done, 2 * total)


def compared(first: Draft, trial: Draft) -> Requantized:
    """The trial with the losses, of which each group of samples has its part."""
    before, behind = file_losses(first), file_losses(trial)
    with np.errstate(invalid="ignore"):  # both may be infinite
        changes = behind - before
    return Requantized(trial, float(before.sum()), float(behind.sum()), standard_error(changes))


def standard_error(parts: Sums) -> float:
    """Of the sum of parts that differ by chance; 0 where they are too few to tell, or not finite."""
    if len(parts) < _FEWEST_GROUPS or not np.isfinite(parts).all():
        return 0.0
    return float(np.std(parts, ddof=1)) * math.sqrt(len(parts))
