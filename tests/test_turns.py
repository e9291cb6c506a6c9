"""Ordered work on several threads: everything, in order, a few at a time."""

import math
import time
from collections.abc import Iterator

import pytest

from onnxmpq.turns import cores, in_processes, in_turn


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(in_turn(work, range(20), workers)) == [i * i for i in range(20)]


def test_items_are_taken_only_a_few_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            taken.append(i)
            yield i

    results = in_turn(lambda item: item, items(), 2)
    next(results)
    assert len(taken) <= 3


def test_an_error_is_raised() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        list(in_turn(work, range(5), 2))


def test_there_is_a_core() -> None:
    assert cores() >= 1


def test_processes_give_results_in_order() -> None:
    assert list(in_processes(math.sqrt, [4.0, 9.0, 16.0, 25.0, 36.0], 2)) == [2, 3, 4, 5, 6]


def test_what_a_process_raises_comes_back() -> None:
    with pytest.raises(ValueError, match=r"domain|nonnegative"):
        list(in_processes(math.sqrt, [4.0, -1.0], 2))
