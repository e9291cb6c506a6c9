"""A budget as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SLACK = 1e-9  # relative; sums of thousands of exact products must not fail by a rounding error


def is_within(used: float, limit: float) -> bool:
    """True unless a limit is exceeded by more than rounding errors."""
    return used <= limit * (1 + SLACK)


def amount(value: float) -> str:
    """A number a reader can check: whole from a thousand up."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One budget as numbers: what each option of each group uses, and how much all may use together.

    `spell` says such a number in the unit that the budget was asked in.
    """

    name: str
    use: tuple[tuple[float, ...], ...]
    limit: float
    spell: Callable[[float], str] = amount

    def least(self) -> float:
        """What the cheapest option of every group uses together."""
        return sum(min(options) for options in self.use)

    def used(self, choice: Sequence[int]) -> float:
        return sum(options[index] for options, index in zip(self.use, choice, strict=True))

    def allows(self, used: float) -> bool:
        return is_within(used, self.limit)

    def holds(self, choice: Sequence[int]) -> bool:
        return self.allows(self.used(choice))
