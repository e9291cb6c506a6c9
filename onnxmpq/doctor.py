"""What this machine and this installation can do, and what to do where that is less than it could be."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from onnxmpq.runtime.ordered_pool import cores, is_confined
from onnxmpq.runtime.session import cuda_driver, is_built_for_cuda, resolve_runtime
from onnxmpq.verify.machine import has_vnni, installed, processor, versions

_BOTH = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was `found`, and what to do about it, None where all is well."""

    name: str
    found: str
    remedy: str | None = None


def examine() -> tuple[Finding, ...]:
    """All findings, the most basic first. Tries a session on the GPU where there is a driver."""
    return (_python(), *_packages(), _runtimes(), _cuda(), _processor(), _cores(), _cluster())


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    return [Finding(name, version) for name, version in versions().items()]


def _runtimes() -> Finding:
    """Two packages that write the same folder: the later one wins, the other one's files lie between."""
    found = [name for name in _BOTH if installed(name) is not None]
    if len(found) < len(_BOTH):
        return Finding("runtime packages", f"{' and '.join(found) or 'none known to pip'}")
    return Finding(
        "runtime packages",
        "onnxruntime and onnxruntime-gpu, which overwrite each other",
        "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want",
    )


def _cuda() -> Finding:
    """Which provider sessions really get; that it is listed does not tell."""
    got = resolve_runtime("auto").provider
    if got == "cuda":
        return Finding("provider", "CUDA: sessions get it")
    if not is_built_for_cuda():
        return Finding("provider", "CPU: this ONNX Runtime has no CUDA provider")
    if cuda_driver() is None:
        return Finding("provider", "CPU: no NVIDIA driver here")
    return Finding(
        "provider",
        "CPU: there is a driver, but no session gets CUDA",
        "pip install 'onnxruntime-gpu[cuda,cudnn]', the CUDA and cuDNN that this ONNX Runtime was built for",
    )


def _processor() -> Finding:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Finding("processor", processor())
    if has_vnni():
        return Finding("processor", f"{processor()}: integer kernels are fast, and sum 8-bit codes exactly")
    return Finding(
        "processor",
        processor(),
        "integer kernels gain little here, and files may come out in float: compile on a CPU like the one that will run them",
    )


def _cores() -> Finding:
    return Finding("cores", f"{cores()}{', fewer than the machine has' if is_confined() else ''}")


def _cluster() -> Finding:
    found = installed("distributed")
    words = "not installed: pip install 'onnxmpq[cluster]' for --cluster" if found is None else found
    return Finding("distributed", words)
