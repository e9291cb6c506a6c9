"""A real scheduler and its workers on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import scheduler
from sendable import DiesOnce, Power

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.workers import open_workers

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two workers of one thread."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder, workers=2) as where:
        yield where


def test_results_come_in_the_order_of_the_items(address: str) -> None:
    with open_workers(cluster=address) as workers:
        assert workers.count == 2
        assert list(workers.map(Power(2), range(20))) == [i * i for i in range(20)]


def test_what_work_raises_comes_out_once(address: str) -> None:
    with open_workers(cluster=address) as workers:
        with pytest.raises(ValueError, match="-1 is no number of mine"):
            list(workers.map(Power(2), [1, -1, 2]))
        assert list(workers.map(Power(2), [2])) == [4]


def test_a_lost_worker_changes_nothing(address: str, tmp_path: Path) -> None:
    with open_workers(cluster=address) as workers:
        assert list(workers.map(DiesOnce(tmp_path / "killed"), range(8))) == list(range(8))


def test_an_item_that_ends_every_worker_is_named(address: str, tmp_path: Path) -> None:
    work = DiesOnce(tmp_path / "killed", always=True)
    with (
        open_workers(cluster=address) as workers,
        pytest.raises(EngineError, match=r"one after another on layer \d, or"),
    ):
        list(workers.map(work, range(8), name=lambda i: f"layer {i}"))


def test_nobody_answers() -> None:
    with (
        pytest.raises(OptionError, match=r"no Dask scheduler answers there"),
        open_workers(cluster="tcp://127.0.0.1:9"),
    ):
        pass


def test_a_scheduler_without_workers(tmp_path: Path) -> None:
    with (
        scheduler(tmp_path, workers=0) as where,
        pytest.raises(OptionError, match="has no workers"),
        open_workers(cluster=where),
    ):
        pass
