"""What an output holds, and how a model does on data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OutputKind(StrEnum):
    """What an output holds, as far as the graph tells."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LOG_PROBABILITIES = "log-probabilities"
    INDEPENDENT = "independent probabilities"  # a Sigmoid: each value a Bernoulli
    VALUES = "values"


@dataclass(frozen=True, slots=True)
class Score:
    """How a model does on `samples` samples; None where the model or the data do not tell.

    `top1` needs labels, `agreement` (share of equal top-1 classes) classes, `kl` (nats a sample) and `sqnr`
    (dB over all float outputs) a reference. Where all outputs are integers, as behind an ArgMax, `agreement` is
    the share of equal elements. NaN where there should be none counts as an SQNR of -inf.
    """

    samples: int
    top1: float | None = None
    agreement: float | None = None
    kl: float | None = None
    sqnr: float | None = None
