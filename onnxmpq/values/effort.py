"""How much a compile may cost: samples of the stages that take long."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmpq.errors import OptionError, nearest


@dataclass(frozen=True, slots=True)
class Effort:
    """`sensitivity`, `requantize` and `judge` are samples.

    Ranks among layers are known long before calibration does, so sensitivity sees a part of the samples only; of the
    others so many judge what was chosen by it, and as many tell what is scaled behind requantizing. With `mirrors`, weights are rounded against mirror images, too, where these are the same to the network.
    """

    name: str
    sensitivity: int
    requantize: int
    judge: int
    mirrors: bool = False


FASTEST = "fast"
EFFORTS = {
    effort.name: effort
    for effort in (
        Effort(FASTEST, sensitivity=32, requantize=64, judge=128),
        Effort("balanced", sensitivity=64, requantize=256, judge=256, mirrors=True),
    )
}


_RENAMED = {"max": "balanced"}  # what it tried besides won nothing: docs/accuracy.md


def find_effort(name: str) -> Effort:
    """The effort of that name. Raises OptionError with the nearest names for anything else."""
    name = _RENAMED.get(name, name)
    if name not in EFFORTS:
        raise OptionError(f"effort {name!r} is not known; {nearest(name, EFFORTS) or ', '.join(EFFORTS)}")
    return EFFORTS[name]
