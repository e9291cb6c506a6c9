"""A constant that no layer holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OtherWeight:
    """A constant of floats that stays as it is: its name, the operators that read it, its bytes, and why."""

    name: str
    op: str
    stored_bytes: int
    reason: str
