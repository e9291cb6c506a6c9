"""Sensitivity that an earlier compile saved, as a method that need not look again."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import numpy_helper

from onnxmpq.data.text import decoded
from onnxmpq.errors import DataError, MissingFileError
from onnxmpq.sensitivity.answer import fault
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory

_READ = ", read from "
_MEASURED = re.compile(r"measured( \(.*\))?")


@dataclass(frozen=True, slots=True)
class Saved:
    """`found` is what the file holds: for a model of the same layers, and with the options that these have here.

    `weights` is the digest of those that it was measured with, None where the file does not say.
    """

    file: Path
    found: Sensitivity
    weights: str | None = None

    @property
    def adds_up(self) -> bool:
        """True where the costs are those of `measured`, which add up nearly."""
        return isinstance(self.found, CostTable) and _MEASURED.fullmatch(self.found.method) is not None

    @property
    def gives_path(self) -> bool:
        """True where the file holds no costs."""
        return isinstance(self.found, Trajectory)

    def __call__(self, probe: Probe) -> Sensitivity:
        """What was saved, without costs of other options than the probe's.

        Raises DataError where it does not fit its layers and options.
        """
        found = self.found if isinstance(self.found, Trajectory) else _of_options(self.found, probe)
        wrong = fault(found, probe)
        if wrong is not None:
            raise DataError(
                f"{self.file} does not fit this model or its options: {wrong}; give the model, --bits, --activations and "
                "--isa that it was measured with, or measure again"
            )
        if self.weights not in (None, weights_of(probe)):
            probe.note(f"{self.file.name} was measured on other weights than this model's")
        return replace(found, method=f"{found.method}{_READ}{self.file.name}")


def saved_text(found: Sensitivity, probe: Probe) -> str:
    """What a file of it holds: JSON, with the digest of the weights."""
    plain = replace(found, method=found.method.partition(_READ)[0])
    return f"{plain.to_json(weights=weights_of(probe))}\n"


def weights_of(probe: Probe) -> str:
    """A digest of the float weights of all layers."""
    digest = hashlib.sha256()
    names = {layer.weight for layer in probe.layers}
    for initializer in probe.model.graph.initializer:
        if initializer.name in names:
            digest.update(numpy_helper.to_array(initializer).tobytes())
    return digest.hexdigest()[:16]


def read_saved(file: Path) -> Saved:
    """Raises MissingFileError, or DataError for a file that holds neither costs nor a path of plans."""
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise MissingFileError(
            f"{file} {found}; a compile saves what its method finds with --save-sensitivity"
        )
    try:
        text = decoded(file.read_bytes())
        fields = json.loads(text)
        kind = Trajectory if isinstance(fields, dict) and "start" in fields else CostTable
        return Saved(file, kind.from_json(text), fields.get("weights"))
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise DataError(f"{file} holds no sensitivity: {error}; --save-sensitivity writes one") from error


def _of_options(table: CostTable, probe: Probe) -> CostTable:
    """The costs of what the probe's layers may be."""
    return replace(
        table,
        costs={
            name: {o: c for o, c in options.items() if o in probe.descent(name)}
            for name, options in table.costs.items()
            if name in probe.options and any(o in probe.descent(name) for o in options)
        },
    )
