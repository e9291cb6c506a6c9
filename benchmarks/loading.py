"""What making a session of a file costs: seconds and peak memory, each in a process of its own.

python benchmarks/loading.py FILE [THREADS]      # prints seconds, and bytes above what the process had before
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from onnxmpq.runtime.session import Runtime

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def load_cost(file: Path, threads: int = 0) -> tuple[float, int]:
    """(seconds, peak bytes above those before) of making a session of `file` in a fresh process; Linux only."""
    command = [sys.executable, __file__, str(file), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="ascii")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def _memory(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _main(file: Path, threads: int) -> None:
    _RESET.write_text("5", encoding="ascii")  # the peak so far is forgotten: it may be the parent's
    before = _memory("VmRSS:")
    start = time.perf_counter()
    Runtime("cpu", threads).session(file)
    seconds = time.perf_counter() - start
    print(seconds, _memory("VmHWM:") - before)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
