"""Where figures come from: the machine, versions and date that stand beside every table."""

from __future__ import annotations

import datetime as dt
import os
import platform
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "cvxpy")


def header() -> str:
    """One paragraph: date, processor, cores, Python and package versions."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return (
        f"{dt.datetime.now(dt.UTC).date()}, {_processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    vnni = "with" if has_vnni() else "without"
    return f"{values.get('model name', platform.machine())} ({vnni} AVX512-VNNI)"


def has_vnni() -> bool:
    """True where the processor sums products of uint8 and int8 without saturating (x86 with AVX-VNNI)."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    return not words.isdisjoint({"avx512_vnni", "avx_vnni"})


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
