"""The machine that figures of speed hold on."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = ("avx512_vnni", "avx_vnni")  # x86: products of uint8 and int8 are summed without saturating


def processor() -> str:
    """The processor's name, and where x86 tells of it the instructions that integer kernels are made of."""
    fields = _fields()
    name = fields.get("model name") or platform.processor() or platform.machine() or "an unnamed processor"
    if "flags" not in fields:
        return name
    found = next((flag.upper().replace("_", "-") for flag in _VNNI if flag in fields["flags"].split()), None)
    return f"{name} ({f'with {found}' if found else 'without VNNI'})"


def has_vnni() -> bool:
    """True on an x86 processor with VNNI."""
    return not set(_fields().get("flags", "").split()).isdisjoint(_VNNI)


def _fields() -> dict[str, str]:
    """What Linux says of the last core; empty elsewhere."""
    if not _CPUINFO.is_file():
        return {}
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
