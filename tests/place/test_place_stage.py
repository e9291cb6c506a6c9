"""What was asked of every layer, and what it may really be given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import numpy_helper

from onnxmpq.check.stage import check, check_budgets
from onnxmpq.context.prepared import Placed
from onnxmpq.context.setting import Loaded
from onnxmpq.errors import InfeasibleError
from onnxmpq.normalize.prepare import prepare
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.place.stage import in_float, place, within_half
from onnxmpq.request import parse_budgets, parse_keeps
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import classifier, labelled
from onnxmpq.values.option import Option

Load = Callable[..., Loaded]


def placed(loaded: Loaded) -> Placed:
    return place(loaded, prepare_model(loaded))


def test_widths_in_float_are_each_one_option() -> None:
    assert in_float([Option(4, 8), Option(4), Option(8, 8, 8)]) == (Option(4), Option(8))


def test_pairs_go_where_layers_compute_in_integers(load_classifier: Load) -> None:
    found = placed(load_classifier(activations="int8"))
    integer = set(found.placement.integer_layers)
    assert integer
    for name, choices in found.options.items():
        assert {o.activation_bits for o in choices} == ({8} if name in integer else {None})
    assert not placed(load_classifier()).placement.tensors


def test_half_precision_is_left_out_where_it_ends_before_a_weight() -> None:
    model = classifier()
    first = model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(1e6 * numpy_helper.to_array(first), first.name))
    sample = {"x": labelled(model)["x"][:1]}
    prepared = prepare(Runtime("cpu", threads=1), model, sample, integer=False, batchable=True)
    large, *others = prepared.layers
    wide, half = (Option(4), Option(16)), (Option(16),)
    notes: list[str] = []
    found = within_half(prepared, {large.name: wide, **{la.name: wide for la in others}}, notes.append)
    assert found == {large.name: (Option(4),), **{la.name: wide for la in others}}
    assert notes == [f"fp16 cannot hold the largest weights of {large.name}, which get another width"]
    only = {la.name: half for la in prepared.layers}
    assert within_half(prepared, only, notes.append) == only  # refused by the check
    assert len(notes) == 1


def test_a_budget_out_of_reach_says_what_would_help(load_classifier: Load) -> None:
    loaded = load_classifier(budgets=parse_budgets(["4bit-avg"]), keeps=parse_keeps(["*=8"]))
    found = placed(loaded)
    with pytest.raises(InfeasibleError, match=r"without --keep '\*=8' it is 4bit-avg"):
        check_budgets(loaded.request, found.prepared, found.options)


def test_patterns_that_change_nothing_are_named(load_classifier: Load) -> None:
    loaded = load_classifier(budgets=parse_budgets(["8bit-avg"]), keeps=parse_keeps(["*=4", "*=8"]))
    check(loaded, placed(loaded))
    assert loaded.stages.notes[-1] == "--keep '*=4' changes nothing: later patterns match all that it does"
