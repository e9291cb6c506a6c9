"""How much a compile may cost: samples and trials of the stages that take long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxmpq.errors import OptionError, nearest

_MINUTES_SAID = 119


@dataclass(frozen=True, slots=True)
class Effort:
    """`sensitivity`, `requantize` and `judge` are samples, `trials` whole plans that are tried around the first one.

    Ranks among layers are known long before calibration does, so sensitivity sees a part of the samples only; of the
    others so many judge what was chosen by it, and as many whether requantizing helps, which is tried first if the effort
    `tries`. With `mirrors`, weights are rounded against mirror images, too, where these are the same to the network.
    """

    name: str
    sensitivity: int
    trials: int
    requantize: int
    judge: int
    tries: bool = True
    mirrors: bool = False

    def measuring(self, samples: int, widths: int) -> float:
        """About how many forwards of a sample measuring takes, of so many widths of layers, and the search behind it.

        Half of the network runs again for each width.
        """
        sensing, judging = (min(count, samples / 2) for count in (self.sensitivity, self.judge))
        return sensing * widths / 2 + (self.trials + 4) * judging

    def learning(self, samples: int, requantized: int = 1, augmentations: int = 1) -> float:
        """About how many forwards of a sample calibration, moments and requantizing take, each as long as some forwards.

        So many plans are requantized on so many augmentations of each sample.
        """
        requantizing = min(self.requantize, samples)
        trial = min(self.requantize, samples / 2) + samples / 2 if self.tries else 0.0
        return 8 * (trial * requantized + augmentations * (requantizing * requantized + samples))


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("fast", sensitivity=32, trials=0, requantize=64, judge=128, tries=False),
        Effort("balanced", sensitivity=256, trials=12, requantize=512, judge=512, mirrors=True),
        Effort("max", sensitivity=1024, trials=64, requantize=1024, judge=1024, mirrors=True),
    )
}


def find_effort(name: str) -> Effort:
    """The effort of that name. Raises OptionError with the nearest names for anything else."""
    if name not in EFFORTS:
        raise OptionError(f"effort {name!r} is not known; {nearest(name, EFFORTS) or ', '.join(EFFORTS)}")
    return EFFORTS[name]


def spoken(seconds: float) -> str:
    """A duration as an estimate may be said: `20 s`, `3 min`, `2 h`."""
    if seconds > _MINUTES_SAID * 60:
        return f"{round(seconds / 3600)} h"
    if seconds < 90:
        return f"{max(1, math.ceil(seconds / 5) * 5 if seconds > 10 else math.ceil(seconds))} s"
    return f"{round(seconds / 60)} min"
