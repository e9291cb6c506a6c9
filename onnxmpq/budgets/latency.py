"""latency=0.7x: of the time that fp32 takes for one sample, on this machine and provider."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Form, Kind, Known, Needs, Outcome, Use
from onnxmpq.values.group import Unit


def _use(_layers: Sequence[Unit], known: Known) -> Use | None:
    times = known.times
    return None if times is None else lambda layer, option: times.seconds[layer.name][option] / times.fp32


def _reached(outcome: Outcome) -> float | None:
    return None if outcome.latency is None else 1 / outcome.latency.speedup


def _words(reached: float, _limit: float) -> str:
    return f"{reached:.3f} of fp32's time, batch 1"


LATENCY = Kind(
    name="share of fp32 latency",
    forms=(Form("latency={}x", float),),
    examples=("latency=0.7x",),
    misspelt=((r"(lat[a-z]*|time)[-=:]?#(x|times)", "latency={number}x"),),
    needs=Needs.TIME,
    use=_use,
    reached=_reached,
    words=_words,
)
