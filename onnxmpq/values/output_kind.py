"""What an output holds."""

from __future__ import annotations

from enum import StrEnum


class OutputKind(StrEnum):
    """What an output holds: by what it is judged, and in which loss it is compared.

    The first four are distributions, one a row of [N, classes]; the others are compared as values.
    """

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LOG_PROBABILITIES = "log-probabilities"
    INDEPENDENT = "independent probabilities"  # a Sigmoid: each value a Bernoulli
    VALUES = "values"
    EMBEDDING = "embedding"  # [N, width]: directions count
    HEATMAP = "heatmap"  # a Sigmoid's map: what is above a threshold counts
    POSITIONS = "positions"  # [N, T, classes], or with classes along another axis: a class at each position

    @property
    def is_distribution(self) -> bool:
        """True where a row of [N, classes] is one distribution, or independent ones."""
        return self in _DISTRIBUTIONS

    @property
    def has_classes(self) -> bool:
        """True where the largest value of a row [N, classes] is the class."""
        return self in _DISTRIBUTIONS and self is not OutputKind.INDEPENDENT


_DISTRIBUTIONS = frozenset(
    {
        OutputKind.LOGITS,
        OutputKind.PROBABILITIES,
        OutputKind.LOG_PROBABILITIES,
        OutputKind.INDEPENDENT,
    }
)
