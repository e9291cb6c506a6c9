"""Where figures come from: the machine, versions, commit and date that stand beside every table."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from onnxmpq.runtime.ordered_pool import cores
from onnxmpq.verify.machine import processor

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "cvxpy")


def header() -> str:
    """One paragraph: date, processor, cores, Python and package versions."""
    return f"{origin()}, {versions()}."


def origin() -> str:
    """Date, processor and cores: where and when something is measured."""
    all_of_them = os.cpu_count() or 1
    used = f"{all_of_them} cores" if cores() == all_of_them else f"{cores()} of {all_of_them} cores"
    return f"{dt.datetime.now(dt.UTC).date()}, {processor()}, {used}"


def versions() -> str:
    """Python and package versions."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """The last commit that changed the code, `+` behind it where the tree changes it further; unknown without git."""
    git, code = ["git", "-C", str(ROOT)], ["--", "onnxmpq", "passes"]
    last = subprocess.run(
        [*git, "log", "-1", "--format=%h", *code], check=False, capture_output=True, text=True
    )
    if last.returncode:
        return "unknown"
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *code], check=False).returncode
    return last.stdout.strip() + "+" * changed


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
