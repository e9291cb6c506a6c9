"""The machine, the process and the versions that figures hold on."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = ("avx512_vnni", "avx_vnni")  # x86: products of uint8 and int8 are summed without saturating


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name, and where x86 tells of it the instructions that integer kernels are made of."""
    fields = _fields(cpuinfo)
    name = fields.get("model name") or platform.processor() or platform.machine() or "an unnamed processor"
    if "flags" not in fields:
        return name
    found = next((flag.upper().replace("_", "-") for flag in _VNNI if flag in fields["flags"].split()), None)
    return f"{name} ({f'with {found}' if found else 'without VNNI'})"


def has_vnni(cpuinfo: Path = _CPUINFO) -> bool:
    """True on an x86 processor with VNNI."""
    return not set(_fields(cpuinfo).get("flags", "").split()).isdisjoint(_VNNI)


def versions() -> dict[str, str]:
    """Versions of what a compile's result hangs on, as installed."""
    names = {name: name for name in ("onnxmpq", "onnx", "numpy", "cvxpy", "onnxruntime")}
    names["onnxruntime"] = "onnxruntime-gpu" if installed("onnxruntime-gpu") else "onnxruntime"
    return {name: version for name in names.values() if (version := installed(name))}


def peak_rss() -> int:
    """Most memory this process ever held, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held before it became this process
        lines = status.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a bare checkout
        return None


def _fields(cpuinfo: Path) -> dict[str, str]:
    """What Linux says of the last core; empty elsewhere."""
    if not cpuinfo.is_file():
        return {}
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
