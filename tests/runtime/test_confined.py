"""What is not ours is left to others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnxmpq.runtime.ordered_pool import cores, is_confined

CONFINED = """
import os, pathlib
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from onnxmpq.testing import classifier
from onnxmpq.runtime.session import Runtime
session = Runtime().session(classifier())
threads = [int(task.name) for task in pathlib.Path("/proc/self/task").iterdir()]
print(max(len(os.sched_getaffinity(thread)) for thread in threads), len(set.union(*map(os.sched_getaffinity, threads))))
"""


def test_there_is_a_core() -> None:
    assert cores() >= 1
    assert is_confined() == (cores() < (os.cpu_count() or 1))


def test_sessions_stay_on_the_cores_that_the_process_may_use() -> None:
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores, and a system that can do without one")
    done = subprocess.run([sys.executable, "-c", CONFINED], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"]
