"""Who does the work: the same results in the same order, whoever it is."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sendable import DiesOnce, Power, device, pid

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.local_workers import LocalWorkers
from onnxmpq.runtime.ordered_pool import cores
from onnxmpq.runtime.workers import Here, Workers, open_workers


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalWorkers]:
    with LocalWorkers(2) as workers:
        yield workers


@pytest.fixture(params=["here", "one thread", "local"])
def anyone(request: pytest.FixtureRequest, pool: LocalWorkers) -> Workers:
    known: dict[str, Workers] = {"here": Here(), "one thread": Here(1), "local": pool}
    return known[request.param]


def test_results_come_in_the_order_of_the_items(anyone: Workers) -> None:
    assert list(anyone.map(Power(2), range(20))) == [i * i for i in range(20)]
    assert list(anyone.map(Power(3), range(5), processes=2)) == [i**3 for i in range(5)]


def test_nothing_to_do_is_done(anyone: Workers) -> None:
    assert list(anyone.map(Power(2), [])) == []


def test_what_work_raises_comes_out_once(anyone: Workers) -> None:
    with pytest.raises(ValueError, match="-1 is no number of mine"):
        list(anyone.map(Power(2), [1, -1, 2]))
    assert list(anyone.map(Power(2), [2])) == [4]


def test_a_few_items_are_held_at_a_time(anyone: Workers) -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            asked.append(i)
            yield i

    results = anyone.map(Power(1), items())
    assert next(results) == 0
    assert len(asked) <= anyone.count + 1


def test_what_it_opens_is_opened_once_a_worker(pool: LocalWorkers, tmp_path: Path) -> None:
    list(pool.map(Power(2, tmp_path), range(20)))
    assert 1 <= len(list(tmp_path.iterdir())) <= 2


def test_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    with LocalWorkers(2) as workers:
        assert list(workers.map(DiesOnce(tmp_path / "killed"), range(8))) == list(range(8))


def test_an_item_that_ends_every_worker_is_named_and_none_that_waited_beside_it(tmp_path: Path) -> None:
    with (
        LocalWorkers(2) as workers,
        pytest.raises(EngineError, match=r"3 workers ended .* on layer 3: .* memory"),
    ):
        list(workers.map(DiesOnce(tmp_path / "killed", always=True), range(8), name=lambda i: f"layer {i}"))


def test_it_is_named_too_where_what_waited_beside_it_was_done(tmp_path: Path) -> None:
    work = DiesOnce(tmp_path / "killed", always=True, after=0.5)
    with LocalWorkers(2) as workers, pytest.raises(EngineError, match=r"on layer 3: "):
        list(workers.map(work, [3, 4, 5, 6], name=lambda i: f"layer {i}"))


def test_an_interrupt_ends_the_workers() -> None:
    found: list[int] = []
    with contextlib.suppress(KeyboardInterrupt), LocalWorkers(2) as workers:
        found.extend(workers.map(pid, range(2)))
        raise KeyboardInterrupt
    assert found
    deadline = time.monotonic() + 10
    while any(map(is_running, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, found))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib\nfrom sendable import pid\nfrom onnxmpq.runtime.local_workers import LocalWorkers\n"
        f"found = list(LocalWorkers(2).map(pid, range(8)))\npathlib.Path({str(tmp_path / 'pids')!r}).write_text(repr(found))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=env, check=False)
    found = json.loads((tmp_path / "pids").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 20
    while any(map(is_running, found)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found
    assert not any(map(is_running, found))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_each_worker_of_a_gpu_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with LocalWorkers(2, on_gpus=True) as workers:
        seen = dict(workers.map(device, range(40)))
    assert {*seen.values()} <= {"5", "7"}
    assert len({*seen.values()}) == len(seen)  # workers


def test_auto_is_a_worker_a_core() -> None:
    with open_workers("auto", provider="cpu") as workers:
        assert workers.count == cores()


def test_nobody_is_asked_for() -> None:
    with open_workers() as workers:
        assert workers == Here()


@pytest.mark.parametrize("asked", [0, -1, "many", "1.5", 2.7, True])
def test_numbers_that_are_none(asked: Any) -> None:
    with pytest.raises(OptionError, match=r"give a number of 1 or more, or auto"):
        open_workers(asked, provider="cpu")


def test_both_at_once() -> None:
    with pytest.raises(OptionError, match="give one of them"):
        open_workers(2, "tcp://localhost:8786")
