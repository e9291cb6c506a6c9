"""Runs keep the order, stay within their bound, and are as few as that allows from left to right."""

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.values.runs import runs


@given(st.lists(st.integers(0, 9)), st.integers(1, 12))
def test_runs_hold_everything_in_order_within_the_bound(sizes: list[int], most: int) -> None:
    found = list(runs(enumerate(sizes), lambda item: item[1], most))
    assert [item for run in found for item in run] == list(enumerate(sizes))
    totals = [sum(size for _, size in run) for run in found]
    assert all(total <= most or len(run) == 1 for total, run in zip(totals, found, strict=True))
    assert all(total + run[0][1] > most for total, run in zip(totals, found[1:], strict=False))
