"""A group of channels has its share of its layer, and says where in it they are."""

import pytest

from onnxmpq.budgets.bops import bops
from onnxmpq.testing.models import example_layer
from onnxmpq.values.group import Group, channels_of, divided, layer_of, place_type
from onnxmpq.values.option import Option
from onnxmpq.values.plan import stored_bytes

LAYER = example_layer("a", "Conv", ("a",), "w", (6, 5, 3, 3), 0, macs=600)
OTHER = example_layer("b", "Conv", ("b",), "v", (2, 6, 1, 1), 0)


def test_a_layer_with_groups_is_decided_by_them() -> None:
    units = tuple(divided((LAYER, OTHER), {"a": ((0, 3), (1, 2, 4, 5))}))
    assert units == (Group(LAYER, (0, 3), 0), Group(LAYER, (1, 2, 4, 5), 1), OTHER)
    assert [unit.name for unit in units] == ["a/part0", "a/part1", "b"]
    assert [layer_of(unit) for unit in units] == [LAYER, LAYER, OTHER]
    assert [channels_of(unit) for unit in units] == [(0, 3), (1, 2, 4, 5), (0, 1)]


def test_groups_share_what_the_layer_has() -> None:
    groups = Group(LAYER, (0, 3), 0), Group(LAYER, (1, 2, 4, 5), 1)
    assert [group.params for group in groups] == [90, 180]
    assert [group.macs for group in groups] == [200, 400]
    assert sum(bops(group, Option(4)) for group in groups) == bops(LAYER, Option(4))


@pytest.mark.parametrize(("channels", "bytes_"), [(256, 1), (257, 2)])
def test_places_take_the_bytes_that_the_file_spends_on_them(channels: int, bytes_: int) -> None:
    whole = example_layer("a", "MatMul", ("a",), "w", (3, channels), 1)
    groups = Group(whole, tuple(range(9)), 0), Group(whole, tuple(range(9, channels)), 1)
    assert place_type(channels).itemsize == bytes_
    assert sum(group.place_bytes for group in groups) == channels * bytes_
    spent = sum(stored_bytes(group, Option(4)) for group in groups) - stored_bytes(whole, Option(4))
    assert channels * bytes_ <= spent <= channels * bytes_ + 1  # codes fill bytes
