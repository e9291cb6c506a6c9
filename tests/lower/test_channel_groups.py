"""Groups of one width are one; a layer of one width is itself; every channel keeps its codes."""

import numpy as np
import onnx
import pytest

from onnxmpq.context.prepared import Prepared
from onnxmpq.lower.channel_groups import grouped, part_of, with_units
from onnxmpq.normalize.prepare import prepare
from onnxmpq.passes.lower.split_channels import place_type
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import classifier, labelled
from onnxmpq.testing.models import layer_of
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.storage import stored_bytes

CPU = Runtime("cpu", threads=1)


def prepared() -> Prepared:
    sample = {"x": labelled(classifier())["x"][:1]}
    return prepare(CPU, classifier(), sample, integer=False, batchable=True)


def test_groups_become_layers() -> None:
    before = prepared()
    first, second, *others = before.layers
    units = [part_of(first, i, group) for i, group in enumerate(((0, 3), (1, 4), (2, 5)))]
    units += [part_of(second, i, group) for i, group in enumerate(((0, 1, 2), (3, 4, 5)))]
    assert with_units(before, units) == (*units, *others)
    bits = (2, 4, 2, 8, 8)
    plan = Plan(
        {u.name: Option(b) for u, b in zip(units, bits, strict=True)} | {la.name: Option(4) for la in others}
    )
    candidates = Candidates(before.model)
    after, parts, merged = grouped(before, candidates, units, plan)
    assert [(la.part, merged[la.name].weight_bits) for la in after.layers] == [
        ((0, 2, 3, 5), 2), ((1, 4), 4), ((), 8), ((), 4), ((), 4),
    ]  # fmt: skip
    for layer in after.layers[:2]:
        width = merged[layer.name].weight_bits
        whole = candidates.quantized(first, width)
        np.testing.assert_array_equal(parts.quantized(layer, width).codes, whole.codes[list(layer.part)])
    x = labelled(classifier())
    expected, found = (CPU.session(m).run({"x": x["x"]}) for m in (before.model, after.model))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(after.model)


def test_without_groups_nothing_changes() -> None:
    before = prepared()
    plan, candidates = Plan({}), Candidates(before.model)
    assert grouped(before, candidates, (), plan) == (before, candidates, plan)


@pytest.mark.parametrize(("channels", "bytes_"), [(256, 1), (257, 2)])
def test_places_take_the_bytes_that_the_file_spends_on_them(channels: int, bytes_: int) -> None:
    whole = layer_of("a", "MatMul", ("a",), "w", (3, channels), 1)
    few, most = (part_of(whole, i, some) for i, some in enumerate((range(9), range(9, channels))))
    spent = sum(stored_bytes(part, Option(4)) for part in (few, most)) - stored_bytes(whole, Option(4))
    index = place_type(channels)
    assert (
        channels * index.itemsize == channels * bytes_ <= spent <= channels * bytes_ + 1
    )  # codes fill bytes
