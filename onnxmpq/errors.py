"""Every error that onnxmpq raises on purpose: one root, and a builtin mixed into each leaf.

A message states what was found, what was wanted, and the remedy; the command prints it as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OnnxmpqError(Exception):
    """Root of all errors of this package; the command ends with exit code 1."""


class MissingFileError(OnnxmpqError, FileNotFoundError):
    """A file that was named does not exist."""


class ModelError(OnnxmpqError, ValueError):
    """The model is not valid ONNX, or holds something that cannot be compiled."""


class EngineError(OnnxmpqError, RuntimeError):
    """ONNX Runtime refused the model or failed while running it."""


class DataError(OnnxmpqError, ValueError):
    """Calibration or evaluation data do not fit the model, or are not data."""


class OptionError(OnnxmpqError, ValueError):
    """An option has a value that cannot be used; the command ends with exit code 2."""


class BudgetError(OptionError):
    """A budget that does not parse."""


class InfeasibleError(OnnxmpqError, ValueError):
    """No choice of widths meets all budgets."""


class OutputError(OnnxmpqError, OSError):
    """The compiled file could not be written."""


class VerifyError(OnnxmpqError, RuntimeError):
    """The written file is not what the plan says."""


def nearest(wanted: str, known: Iterable[str], count: int = 3) -> str:
    """The known names closest to `wanted`, as a phrase for an error message ("" when there are none)."""
    close = difflib.get_close_matches(wanted, sorted(known), n=count, cutoff=0.3)
    return f"nearest: {', '.join(close)}" if close else ""
