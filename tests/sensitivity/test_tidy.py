"""Noisy costs: raised no further than need be, and what nobody measured is taken for average."""

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.sensitivity.methods.measured import monotone, tidy
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option

COSTS = st.dictionaries(st.builds(Option, st.integers(1, 8), st.sampled_from([None, 8])), st.floats(0, 1))


@given(COSTS)
def test_falls_as_widths_grow(costs: dict[Option, float]) -> None:
    found = monotone(costs)
    assert list(found) == list(costs)
    for one in found:
        assert found[one] >= costs[one]
        wider = [
            o for o in found if o.activation_bits == one.activation_bits and o.weight_bits >= one.weight_bits
        ]
        assert found[one] == max(costs[o] for o in wider)
    assert monotone(found) == found


def test_a_layer_that_nobody_reached_is_an_average_one() -> None:
    low, high = Option(2), Option(8)
    table = CostTable(
        {"a": {low: 4.0, high: 1.0}, "b": {low: 2.0, high: 0.0}, "c": {low: 0.0, high: 0.0}}, "kl", "m", 8
    )
    found = tidy(table).costs
    assert found["c"] == {low: 3.0, high: 0.5}
    assert found["a"] == {low: 4.0, high: 1.0}


def test_one_width_beside_being_left_alone_is_an_average_one_too() -> None:
    only = Option(8, 8)
    table = CostTable({"a": {only: 4.0}, "unseen": {only: 0.0}}, "kl", "m", 8)
    assert tidy(table).costs["unseen"] == {only: 4.0}


def test_nothing_known_stays_nothing() -> None:
    table = CostTable({"a": {Option(2): 0.0, Option(8): 0.0}}, "kl", "m", 8)
    assert tidy(table) == table
