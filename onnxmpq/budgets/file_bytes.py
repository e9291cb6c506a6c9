"""1.5MB, 350kB, 800KiB: the bytes of the written file."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Kind, Known, Needs, Outcome, Use, in_units
from onnxmpq.values.group import Unit
from onnxmpq.values.plan import stored_bytes

_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


def _use(layers: Sequence[Unit], known: Known) -> Use | None:
    """Codes and scales; what the file holds besides them is charged to the first layer."""
    besides = known.bytes_besides
    if besides is None:
        return None
    return lambda layer, option: stored_bytes(layer, option) + (besides if layer is layers[0] else 0.0)


def _reached(outcome: Outcome) -> float | None:
    return None if outcome.file_bytes is None else float(outcome.file_bytes)


def _words(reached: float, _limit: float) -> str:
    return f"{reached:,.0f} bytes"


FILE_BYTES = Kind(
    name="file bytes",
    forms=in_units("{}", _UNITS),
    examples=("1.5MB",),
    misspelt=((r"#(?P<unit>[kmg]i?)(b|bytes?)?", "{number}{unit}B"), (r"#bytes?", "{number}B")),
    needs=Needs.FILE,
    use=_use,
    reached=_reached,
    words=_words,
)
