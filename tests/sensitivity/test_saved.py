"""What a compile saved is what the next one starts from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from onnx import numpy_helper

from onnxmpq.errors import DataError, MissingFileError
from onnxmpq.lower.draft import Lowering
from onnxmpq.request import parse_keeps
from onnxmpq.sensitivity.methods import METHODS, find_method
from onnxmpq.sensitivity.methods.measured import measured
from onnxmpq.sensitivity.methods.semilayer import semilayer
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.saved import Saved, read_saved, saved_text
from onnxmpq.sensitivity.stage import measure
from onnxmpq.testing import classifier, labelled, probe_of
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.option import Option


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()))


def saved(found: Sensitivity, folder: Path, probe: Probe) -> Saved:
    file = folder / "found.json"
    file.write_text(saved_text(found, probe))
    return read_saved(file)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_found_is_found_again(probe: Probe, tmp_path: Path, name: str) -> None:
    found = METHODS[name](probe)
    again = saved(found, tmp_path, probe)(probe)
    assert again.method == f"{found.method}, read from found.json"
    assert json.loads(again.to_json()) == {**json.loads(found.to_json()), "method": again.method}


def test_only_measured_costs_add_up(probe: Probe, tmp_path: Path) -> None:
    assert saved(measured(probe), tmp_path, probe).adds_up
    assert saved(saved(measured(probe), tmp_path, probe)(probe), tmp_path, probe).adds_up
    for name in ("size", "greedy"):
        assert not saved(METHODS[name](probe), tmp_path, probe).adds_up
    for name in ("measured_otherwise", "measured-by-hand"):
        assert not saved(CostTable({}, "kl", name, 1), tmp_path, probe).adds_up


def test_a_path_holds_each_change_once(probe: Probe) -> None:
    found = semilayer(probe)
    fields = json.loads(found.to_json())
    assert fields["start"].keys() == found.plans[0].options.keys()
    assert sum(map(len, fields["steps"])) < 3 * len(
        found.plans[0].options
    )  # each group goes from 8 to 4 to 2


def test_a_path_is_the_same_text_in_every_run(probe: Probe) -> None:
    found = semilayer(probe)
    order = list(found.plans[0].options)
    for step in json.loads(saved_text(found, probe))["steps"]:
        assert list(step) == sorted(step, key=order.index)


def test_a_file_says_which_channels_each_group_holds(probe: Probe, tmp_path: Path) -> None:
    found = semilayer(probe)
    again = saved(found, tmp_path, probe)(probe)
    assert isinstance(again, Trajectory)
    assert again.groups == found.groups != {}
    fields = json.loads(found.to_json())
    assert {name: tuple(map(tuple, own)) for name, own in fields["groups"].items()} == found.groups


def test_groups_that_do_not_hold_a_layers_channels_are_refused(probe: Probe, tmp_path: Path) -> None:
    found = semilayer(probe)
    name, (first, *others) = next(iter(found.groups.items()))
    doubled = replace(found, groups={**found.groups, name: ((*first, first[0]), *others)})
    with pytest.raises(DataError, match=f"its groups of layer '{name}' do not hold each of"):
        saved(doubled, tmp_path, probe)(probe)
    cut = replace(found, groups={**found.groups, name: tuple(others)})
    with pytest.raises(DataError, match="which the model does not have"):
        saved(cut, tmp_path, probe)(probe)
    undecided = replace(found, groups={**found.groups, name: (first, *others, ())})
    with pytest.raises(DataError, match=f"its plans do not decide '{name}/part{1 + len(others)}'"):
        saved(undecided, tmp_path, probe)(probe)


def test_fewer_widths_need_no_other_file(probe: Probe, tmp_path: Path) -> None:
    file = saved(measured(probe), tmp_path, probe)
    fewer = replace(probe, options={name: some[:2] for name, some in probe.options.items()})
    found = file(fewer)
    assert isinstance(found, CostTable)
    assert {name: tuple(costs) for name, costs in found.costs.items()} == fewer.options


def test_other_weights_are_said(probe: Probe, tmp_path: Path) -> None:
    file, notes = saved(measured(probe), tmp_path, probe), list[str]()
    file(replace(probe, note=notes.append))
    assert not notes
    first = probe.model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(first), first.name))
    file(replace(probe, note=notes.append))
    assert notes == ["found.json was measured on other weights than this model's"]


def test_what_was_measured_at_other_widths_is_refused(probe: Probe, tmp_path: Path) -> None:
    file = saved(measured(probe), tmp_path, probe)
    with pytest.raises(DataError, match=r"does not fit this model or its options: .* at 3; wanted all"):
        file(probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4)))


TABLE = {"costs": {"a": {"4": 1.0}}, "metric": "kl", "method": "m", "samples": 1}
PATH = {"start": {"a": "4"}, "steps": [], "losses": [None], "layers": []}


BROKEN: list[Any] = [None, [], {"a": 1}, {"a": {"4": None}}, {"a": {"4": "low"}}, {"a": {"x": 1}}]


def changed(fields: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**TABLE, **fields, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", '{"costs": {}}', '{"start": {}}', "\udcff", "[" * 100_000,
        *(changed({}, costs=some) for some in BROKEN),
        changed({}, costs={"a": {"4": 10**400}}), changed({}, samples=None), changed({}, method=None), changed({}, metric=3),
        changed({}, evaluations="x"), changed(PATH, steps=None), changed(PATH, steps=[3]), changed(PATH, losses=None),
        changed(PATH, start=[]), changed(PATH, layers=[{"what": 1}]), changed(PATH, groups=[]), changed(PATH, groups={"a": [["x"]]}), changed(PATH, start={"a": 7}),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"some\.json"):
        find_method(str(file))
    with pytest.raises(MissingFileError, match="a compile saves what its method finds"):
        find_method(str(tmp_path / "none.json"))


def test_what_is_fixed_stays_so_whatever_a_saved_path_says(
    lower_classifier: Callable[..., Lowering], tmp_path: Path
) -> None:
    for method in (METHODS["greedy"], semilayer):
        file = tmp_path / "path.json"
        free = lower_classifier(method=method)
        measure(free.setting, free.candidates, file)
        name = free.setting.prepared.layers[0].name
        fixed = lower_classifier(method=find_method(str(file)), keeps=parse_keeps([f"{name}=8"]))
        found = measure(fixed.setting, fixed.candidates)
        assert isinstance(found, Trajectory)
        assert {plan[name] for plan in found.plans} == {Option(8)}
        assert name not in found.groups


def test_it_is_saved_as_the_method_gave_it(lower_classifier: Callable[..., Lowering], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    lowering = lower_classifier(method=measured)
    costs = measure(lowering.setting, lowering.candidates, file)
    again = lower_classifier(method=find_method(str(file)))
    assert measure(again.setting, again.candidates) == replace(costs, method="measured, read from found.json")
