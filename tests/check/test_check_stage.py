"""What was asked in vain is said, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmpq.check.stage import check_budgets, remarks
from onnxmpq.context.setting import Loaded
from onnxmpq.errors import InfeasibleError
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


def test_a_large_constant_of_no_layer_is_named_where_a_file_cannot_be_small_enough(
    load_classifier: Load,
) -> None:
    loaded = load_classifier(budgets=parse_budgets(["50kB"]))
    found = place(loaded, prepare_model(loaded))
    model = onnx.ModelProto()
    model.CopyFrom(found.prepared.model)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1000, 16), np.float32), "table"))
    model.graph.node.append(helper.make_node("GatherElements", ["table", "ids"], ["embedded"]))
    prepared = replace(found.prepared, model=model)
    with pytest.raises(
        InfeasibleError, match=r"50kB cannot be met: .* table \(64,000 bytes; GatherElements is not among"
    ):
        check_budgets(loaded.request, prepared, found.options, file_size=lambda _plan: 100_000)
