"""How much of the machine is ours."""

from __future__ import annotations

import os


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_confined() -> bool:
    """True where the machine has more than that."""
    return cores() < (os.cpu_count() or 1)
