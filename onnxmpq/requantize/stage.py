"""requantize: the plan's layers rounded once more, each against what it really gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxmpq.allocate.choose import file_fits
from onnxmpq.context.setting import Setting
from onnxmpq.lower.draft import Draft
from onnxmpq.lower.lower_plan import simulate
from onnxmpq.requantize.logit_scale import best_logit_scale, file_loss, with_logit_scale
from onnxmpq.requantize.sequential import SequentialRequantizer, is_fitted, requantized
from onnxmpq.rounding.padded import find_padded
from onnxmpq.values.group import Group

_REQUANTIZED_BELOW = 7  # bits
_JUDGINGS, _SHARE = 3, 10  # each takes about as long as a tenth of the layers


def is_requantized(draft: Draft) -> bool:
    """True where rounding looks at real inputs, narrow weights or integer inputs leave something to make up for, and some layer can.

    Seven bits and more lose next to nothing, but what integer inputs lose, layers behind can make up for (at 8 bits that takes
    12, 11 and 38 % of the KL of SqueezeNet, ResNet-20 and MobileNetV2 away; the closed form of ERQ, Zhong et al. 2024, arXiv
    2407.06794). What is fitted to noise has learned noise, and groups of channels keep their codes.
    """
    setting = draft.setting
    if setting.request.quantizers.rounding == "nearest" or setting.splits.rounding.synthetic:
        return False
    if any(isinstance(unit, Group) for unit in draft.units):
        return False
    bits = {layer: draft.plan[layer.name].weight_bits for layer in draft.prepared.layers}
    fitted = any(is_fitted(layer, own) for layer, own in bits.items())
    integer = any(draft.plan[layer.name].activation_bits is not None for layer in bits)
    return fitted and (integer or min(bits.values()) < _REQUANTIZED_BELOW)


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
    """What it came to, and what ships."""
    if found.broke:
        return ", which broke the network, so the first rounding is kept"
    count = setting.splits.judging.count
    return (
        f": {setting.prepared.metric.name} {found.before:.3g} -> {found.behind:.3g} on {count} calibration "
        f"sample{'s' if count > 1 else ''}"
    )


def shipped(draft: Draft) -> Draft:
    """The draft as its file would have it."""
    return requantized_draft(draft).draft if is_requantized(draft) else draft


@dataclass(frozen=True, slots=True)
class Requantized:
    """A draft to be shipped, its file's losses before and behind requantizing, and the factor on its logits."""

    draft: Draft
    before: float
    behind: float
    factor: float = 1.0

    @property
    def broke(self) -> bool:
        """True where the network gives numbers no more."""
        return math.isfinite(self.before) and not math.isfinite(self.behind)


def requantized_draft(draft: Draft) -> Requantized:
    """The draft requantized on all samples, up to as many as the effort allows, in all their augmentations, and its logits scaled.

    Samples that rounding saw do not tell whether it helps on others, but what broke is not shipped. (A trial on half of them,
    judged on the others, made files no better for a fifth of the time: docs/accuracy.md.)
    """
    progress, layers = draft.setting.stages.observer.progress, len(draft.prepared.layers)
    whole = layers + _JUDGINGS * -(-layers // _SHARE)
    again = rounded_again(draft, lambda done: progress(done, whole))
    found = Requantized(again, file_loss(draft), file_loss(again))
    progress(whole - -(-layers // _SHARE), whole)
    final = draft if found.broke else again
    factor = best_logit_scale(final)
    return replace(found, draft=with_logit_scale(final, factor), factor=factor)


def rounded_again(draft: Draft, told: Callable[[int], None] = lambda _: None) -> Draft:
    """Every layer against what the network, with the plan's Q/DQ pairs on activations, feeds it.

    Codes of two bits may become odd ones, or others, unless the file then breaks a budget.
    """
    again = _again(draft, told)
    if file_fits(draft.setting.request.constraints.budgets, again.plan, lambda _: again.file_size()):
        return again
    return _again(draft, told, same_kind=True)


def _again(draft: Draft, told: Callable[[int], None], *, same_kind: bool = False) -> Draft:
    setting, prepared = draft.setting, draft.prepared
    requantizer = SequentialRequantizer(
        setting.runtime, prepared.model, simulate(prepared, draft.plan, setting.quantized), prepared.layers,
        prepared.traced, setting.splits.rounding, prepared.batch_size, setting.request.search.effort.requantize,
        seed=setting.request.search.seed, grids=setting.request.target.grids, augmentations=setting.augmentations,
        padded=find_padded(
            setting.runtime, prepared.model, prepared.layers, prepared.metric.padding, setting.splits.rounding,
            prepared.batch_size,
        ),
    )  # fmt: skip
    after = requantized(
        requantizer,
        prepared.layers,
        draft.plan,
        draft.candidates,
        lambda done, _: told(done),
        same_kind=same_kind,
    )
    return replace(draft, candidates=after)
