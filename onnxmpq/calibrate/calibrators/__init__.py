"""Calibrators: one file each, one function each, `Statistics, CodeType -> (low, high)` of one tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from onnxmpq.calibrate.calibrators.entropy import entropy
from onnxmpq.calibrate.calibrators.mean_minmax_3sigma import mean_minmax_3sigma
from onnxmpq.calibrate.calibrators.minmax import minmax
from onnxmpq.calibrate.calibrators.mse import mse
from onnxmpq.calibrate.calibrators.percentile import percentile
from onnxmpq.calibrate.statistics import Statistics
from onnxmpq.errors import OptionError, nearest
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.values.activation_range import CodeType

Interval = Callable[[Statistics, CodeType], tuple[float, float]]

_BINS = 4096
_FINE = 8  # bits from which the codes resolve what is common however far they reach


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Chooses the interval of values that the codes cover; all beyond it is clipped.

    `bins` are those of the histogram it looks at, which costs a second pass over the data; 0 for none.
    """

    interval: Interval
    bins: int = _BINS


CALIBRATORS: dict[str, Calibrator] = {
    "mean_minmax_3sigma": Calibrator(mean_minmax_3sigma, bins=0),
    "minmax": Calibrator(minmax, bins=0),
    "percentile": Calibrator(percentile),
    "entropy": Calibrator(entropy),
    "mse": Calibrator(mse),
}


# Earlier names go on working, and where our calibrators stood before, as in onnxmpq.activations.calibrators.mse:mse.
_RENAMED = {"typical": "mean_minmax_3sigma"}
_MOVED = re.compile(rf"onnxmpq\.activations\.calibrators\.({'|'.join([*CALIBRATORS, *_RENAMED])}):\1")


def default_calibrator(bits: int) -> Calibrator:
    """What is best for codes of that width (docs/calibrators_table.md): few codes are better spent on what is common."""
    return CALIBRATORS["mean_minmax_3sigma" if bits >= _FINE else "mse"]


def find_calibrator(name: str) -> Calibrator:
    """A built-in calibrator by name, or a function of one's own, or a Calibrator, as `file.py:name` or `module:name`.

    Raises OptionError with the nearest names for anything else.
    """
    name = _RENAMED.get(name, name)
    if name in CALIBRATORS:
        return CALIBRATORS[name]
    if not is_reference(name):
        raise OptionError(
            f"calibrator {name!r} is not known; {nearest(name, CALIBRATORS) or 'built in: ' + ', '.join(CALIBRATORS)}. "
            "One of your own is named file.py:function"
        )
    if moved := _MOVED.fullmatch(name):
        name = "onnxmpq.calibrate.calibrators.{0}:{0}".format(_RENAMED.get(moved[1], moved[1]))
    found = load_attribute(name)
    if isinstance(found, Calibrator):
        return found
    if not callable(found):
        raise OptionError(
            f"{name} is a {type(found).__name__}; wanted a function (Statistics, CodeType) -> (low, high)"
        )
    return Calibrator(found)
