"""Ordered work on several threads: everything, in order, a few at a time."""

import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxmpq.runtime.ordered_pool import map_in_processes, map_in_threads


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(map_in_threads(work, range(20), workers)) == [i * i for i in range(20)]


def test_items_are_taken_only_a_few_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            taken.append(i)
            yield i

    results = map_in_threads(lambda item: item, items(), 2)
    next(results)
    assert len(taken) <= 3


def test_an_error_is_raised() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        list(map_in_threads(work, range(5), 2))


def test_processes_give_results_in_order() -> None:
    assert list(map_in_processes(math.sqrt, [4.0, 9.0, 16.0, 25.0, 36.0], 2)) == [2, 3, 4, 5, 6]


def test_what_a_process_raises_comes_back() -> None:
    with pytest.raises(ValueError, match=r"domain|nonnegative"):
        list(map_in_processes(math.sqrt, [4.0, -1.0], 2))


def in_a_daemon(items: list[float]) -> list[float]:
    return list(map_in_processes(math.sqrt, items, 2))


def test_a_process_that_may_have_no_children_does_the_work_itself() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(in_a_daemon, ([4.0, 9.0],)) == [2, 3]


def touch_later(path: Path) -> None:
    if path.name != "first":
        time.sleep(3)
    path.touch()


def test_who_stops_asking_ends_what_is_under_way(tmp_path: Path) -> None:
    found = map_in_processes(touch_later, [tmp_path / name for name in ("first", "second", "third")], 2)
    next(found)
    found.close()
    assert not (tmp_path / "second").exists()
