"""What a settled last layer does to samples that it was not fitted to.

A classifier behind a global pooling sees one window a sample: some hundred, for a thousand columns and more. What it was
fitted to it gives better than anything else, and to judge by that makes its logits smaller than they should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from onnxmpq.data import Dataset
from onnxmpq.spec import Layer
from onnxmpq.stages.lowering import Draft
from onnxmpq.weights.blocks import columns
from onnxmpq.weights.settle import is_fitted

_WINDOWS_A_COLUMN = 4  # with more, samples that were seen and others agree


def is_learned_by_heart(draft: Draft, layer: Layer) -> bool:
    """True where the layer was settled on few windows for its columns.

    Of a matrix product's rows each counts as one, whatever stands beside it: that errs to the side that costs more.
    """
    data = draft.setting.shares.rounding
    if not (data.divides and is_fitted(layer, draft.plan[layer.name].weight_bits)):
        return False
    return math.prod(layer.positions) * data.count < _WINDOWS_A_COLUMN * columns(layer)


def unseen(draft: Draft, layer: Layer) -> Iterator[tuple[Draft, Dataset]]:
    """The draft with this layer, its last, settled on one half of the samples, and the other half; and the reverse.

    Nothing of a half that has too few windows.
    """
    halves = draft.setting.shares.rounding.split(0.5, draft.setting.request.seed)
    for seen, other in (halves, halves[::-1]):
        fitted = _settled_on(draft, layer, seen)
        if fitted is not None:
            yield fitted, other


def _settled_on(draft: Draft, layer: Layer, seen: Dataset) -> Draft | None:
    settler = draft.settler(seen, seen.count)
    for other in draft.prepared.layers:
        if other.reason is None and other is not layer:
            settler.fix(draft.candidates.constants(other, draft.plan[other.name].weight_bits))
    found = settler.settle(layer, draft.plan[layer.name].weight_bits)
    if found is None:
        return None
    candidates = draft.candidates.copy()
    candidates.settle(layer, *found)
    return replace(draft, candidates=candidates)
