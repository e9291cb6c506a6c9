"""A Dask scheduler on this machine, with workers of one thread each: processes of their own, as on a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 60  # to start


@contextlib.contextmanager
def scheduler(folder: Path, workers: int) -> Iterator[str]:
    """Its address; it and its workers end with the block."""
    file = folder / "scheduler.json"
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    with contextlib.ExitStack() as processes:
        processes.enter_context(_running("scheduler", "--host", "127.0.0.1", "--port", "0", *where))
        address = str(_known(file)["address"])
        for number in range(workers):
            local = str(folder / f"worker{number}")
            processes.enter_context(
                _running("worker", address, "--nthreads", "1", "--local-directory", local, "--no-dashboard")
            )
        if workers:
            _wait_for(address, workers)
        yield address


@contextlib.contextmanager
def _running(command: str, *options: str) -> Iterator[None]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _known(file: Path) -> dict[str, object]:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
            return found
        time.sleep(0.05)
    raise TimeoutError("the scheduler did not start")


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=_SECONDS)
