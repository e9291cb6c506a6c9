"""What a compile saved is what the next one starts from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from onnxmpq.errors import DataError, MissingFileError
from onnxmpq.plan import CostTable, Sensitivity
from onnxmpq.sensitivity import METHODS, find_method
from onnxmpq.sensitivity.measured import measured
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.saved import Saved, read_saved
from onnxmpq.sensitivity.semilayer import semilayer
from onnxmpq.stages.lowering import Lowering
from onnxmpq.stages.sensitivity import measure
from onnxmpq.testing import classifier, labelled, probe_of


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()))


def saved(found: Sensitivity, folder: Path) -> Saved:
    file = folder / "found.json"
    file.write_text(found.to_json())
    return read_saved(file)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_found_is_found_again(probe: Probe, tmp_path: Path, name: str) -> None:
    found = METHODS[name](probe)
    again = saved(found, tmp_path)(probe)
    assert again.method == f"{found.method}, read from found.json"
    assert json.loads(again.to_json()) == {**json.loads(found.to_json()), "method": again.method}


def test_only_measured_costs_add_up(probe: Probe, tmp_path: Path) -> None:
    assert saved(measured(probe), tmp_path).adds_up
    assert saved(saved(measured(probe), tmp_path)(probe), tmp_path).adds_up
    for name in ("size", "greedy"):
        assert not saved(METHODS[name](probe), tmp_path).adds_up
    mine = CostTable({}, "kl", "measured_otherwise", 1)
    assert not saved(mine, tmp_path).adds_up


def test_a_path_holds_each_change_once(probe: Probe) -> None:
    found = semilayer(probe)
    fields = json.loads(found.to_json())
    assert fields["start"].keys() == found.plans[0].options.keys()
    assert sum(map(len, fields["steps"])) < 3 * len(found.layers)  # each group goes from 8 to 4 to 2


def test_of_another_network_it_is_refused(probe: Probe, tmp_path: Path) -> None:
    file = saved(measured(probe), tmp_path)
    with pytest.raises(
        DataError, match=r"found\.json does not fit this model and these options: .* at 3; wanted all"
    ):
        file(probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4)))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"costs": {}}', '{"start": {}}', "\udcff"])
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"some\.json"):
        find_method(str(file))
    with pytest.raises(MissingFileError, match="a compile writes one with --save-sensitivity"):
        find_method(str(tmp_path / "none.json"))


def test_it_is_saved_as_the_method_gave_it(lower_classifier: Callable[..., Lowering], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    lowering = lower_classifier(method=measured)
    costs = measure(lowering, file)
    assert measure(lower_classifier(method=find_method(str(file)))) == replace(
        costs, method="measured, read from found.json"
    )
