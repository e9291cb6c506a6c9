"""Sensitivity that an earlier compile saved, as a method that need not look again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from onnxmpq.errors import DataError, MissingFileError
from onnxmpq.plan import CostTable, Sensitivity, Trajectory
from onnxmpq.sensitivity.answer import fault
from onnxmpq.sensitivity.probe import Probe


@dataclass(frozen=True, slots=True)
class Saved:
    """`found` is what the file holds: for a model of the same layers, and with the same options for these."""

    file: Path
    found: Sensitivity

    @property
    def adds_up(self) -> bool:
        """True where the costs are those of `measured`, which add up nearly."""
        return isinstance(self.found, CostTable) and re.match(r"measured\b", self.found.method) is not None

    @property
    def gives_path(self) -> bool:
        """True where the file holds no costs."""
        return isinstance(self.found, Trajectory)

    def __call__(self, probe: Probe) -> Sensitivity:
        """What was saved. Raises DataError where it is of other layers or options than the probe's."""
        wrong = fault(self.found, probe)
        if wrong is not None:
            raise DataError(
                f"{self.file} does not fit this model and these options: {wrong}; measure again, or give the options it was "
                "measured with"
            )
        return replace(self.found, method=f"{self.found.method}, read from {self.file.name}")


def read_saved(file: Path) -> Saved:
    """Raises MissingFileError, or DataError for a file that holds neither costs nor a path of plans."""
    if not file.is_file():
        raise MissingFileError(
            f"there is no file {file}; a compile writes one with --save-sensitivity {file}"
        )
    try:
        text = file.read_text(encoding="utf-8")
        kind = Trajectory if "start" in json.loads(text) else CostTable
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise DataError(f"{file} holds no sensitivity: {error}; --save-sensitivity writes one") from error
    try:
        return Saved(file, kind.from_json(text))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
