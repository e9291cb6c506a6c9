"""What an output holds."""

from __future__ import annotations

from enum import StrEnum


class OutputKind(StrEnum):
    """What an output holds, as far as the graph tells."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LOG_PROBABILITIES = "log-probabilities"
    INDEPENDENT = "independent probabilities"  # a Sigmoid: each value a Bernoulli
    VALUES = "values"
