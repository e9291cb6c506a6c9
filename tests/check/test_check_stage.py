"""What was asked in vain is said, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxmpq.check.stage import remarks
from onnxmpq.context.setting import Loaded
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.place.stage import place
from onnxmpq.request import parse_budgets

Load = Callable[..., Loaded]


def test_weights_that_bops_do_not_count_are_named_unless_they_are_empty(load_classifier: Load) -> None:
    loaded = load_classifier(budgets=parse_budgets(["1GBOPs"]))
    found = place(loaded, prepare_model(loaded))
    first, *others = found.prepared.layers
    for shape, named in ((first.shape, True), ((0, *first.shape[1:]), False)):
        layers = (replace(first, shape=shape, macs=0), *others)
        some = replace(found, prepared=replace(found.prepared, layers=layers))
        assert any(f"leave out {first.name}:" in words for words in remarks(loaded.request, some)) is named
