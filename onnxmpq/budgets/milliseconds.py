"""latency=5ms, latency=800us: the time of one sample, on this machine and provider."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Kind, Known, Needs, Outcome, Use, in_units
from onnxmpq.values.group import Unit

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def _use(_layers: Sequence[Unit], known: Known) -> Use | None:
    times = known.times
    return None if times is None else lambda layer, option: 1e3 * times.seconds[layer.name][option]


def _reached(outcome: Outcome) -> float | None:
    return None if outcome.latency is None else 1e3 * outcome.latency.model


def _words(reached: float, _limit: float) -> str:
    time = f"{reached:.2f} ms" if reached >= 1 else f"{reached * 1e3:.0f} µs"
    return f"{time}, batch 1"


MILLISECONDS = Kind(
    name="milliseconds",
    forms=in_units("latency={}", _UNITS),
    misspelt=((r"((lat[a-z]*|time)[-=:]?)?#(?P<unit>[um]?s)", "latency={number}{unit}"),),
    needs=Needs.TIME,
    use=_use,
    reached=_reached,
    words=_words,
)
