"""Groups of one width are one; a layer of one width is itself; every channel keeps its codes."""

import numpy as np
import onnx
import pytest

from onnxmpq.context.prepared import Prepared
from onnxmpq.lower.channel_groups import joined, split
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import classifier, labelled
from onnxmpq.values.group import Group, divided
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

CPU = Runtime("cpu", threads=1)


@pytest.fixture
def prepared() -> Prepared:
    sample = {"x": labelled(classifier())["x"][:1]}
    return prepare(CPU, classifier(), sample, integer=False, batchable=True)


def test_groups_of_one_option_are_joined(prepared: Prepared) -> None:
    first, second, *others = prepared.layers
    groups = {first.name: ((0, 3), (1, 4), (2, 5)), second.name: ((0, 1, 2), (3, 4, 5))}
    units = tuple(divided(prepared.layers, groups))
    options = [Option(bits) for bits in (2, 4, 2, 8, 8, 4, 4)]
    plan = Plan({unit.name: option for unit, option in zip(units, options, strict=True)})
    assert list(joined(units, plan).items()) == [
        (Group(first, (0, 2, 3, 5), 0), Option(2)), (Group(first, (1, 4), 1), Option(4)), (second, Option(8)),
        *((layer, Option(4)) for layer in others),
    ]  # fmt: skip


def test_groups_have_constants_of_their_own(prepared: Prepared) -> None:
    first, *others = prepared.layers
    groups = Group(first, (0, 2, 3, 5), 0), Group(first, (1, 4), 1)
    after = split(prepared, (*groups, *others))
    onnx.checker.check_model(after.model)
    assert after.layers[2:] == tuple(others)
    candidates = Candidates(prepared.model)
    whole = candidates.quantized(first, 4)
    parts = candidates.of_groups(after.model, groups)
    for layer, group in zip(after.layers, groups, strict=False):
        assert (layer.name, layer.params, layer.macs) == (group.name, group.params, group.macs)
        np.testing.assert_array_equal(parts.quantized(layer, 4).codes, whole.codes[list(group.channels)])
        exact = Candidates(prepared.model).constants(first, 32)[first.weight]
        np.testing.assert_array_equal(parts.constants(layer, 32)[layer.weight], exact[list(group.channels)])
    x = labelled(classifier())
    expected, found = (CPU.session(m).run({"x": x["x"]}) for m in (prepared.model, after.model))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
