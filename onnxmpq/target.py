"""What a file may hold so that its consumer runs it: data, not code."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmpq.errors import OptionError, nearest


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer of compiled files: the widths it may hold, and whether INT2 tensors are among them."""

    name: str
    widths: tuple[int, ...]
    int2_tensors: bool
    note: str


TARGETS = {
    target.name: target
    for target in (
        Target("ort-cpu", (1, 2, 3, 4, 5, 6, 7, 8), True, "ONNX Runtime's CPU execution provider"),
        Target("ort-cuda", (1, 2, 3, 4, 5, 6, 7, 8), True, "ONNX Runtime's CUDA execution provider"),
    )
}


def find_target(name: str) -> Target:
    """The built-in target of that name. Raises OptionError with the names there are."""
    if name not in TARGETS:
        raise OptionError(
            f"target {name!r} is not known; {nearest(name, TARGETS) or 'choose ' + ' or '.join(TARGETS)}"
        )
    return TARGETS[name]
