"""The equation of an Einsum (12): which axes its operands have, and its result."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of each operand's axes and of the result's; "..." stands for any number of them."""

    operands: tuple[str, ...]
    result: str

    @staticmethod
    def of(node: gs.Node) -> Equation:
        """That of an Einsum, its result spelled out: where it says none, the letters that occur once, in order."""
        left, arrow, result = "".join(node.attrs["equation"].split()).partition("->")
        if not arrow:
            letters = left.replace(",", "").replace(".", "")
            once = sorted(c for c in set(letters) if letters.count(c) == 1)
            result = "".join(["..." if "..." in left else "", *once])
        return Equation(tuple(left.split(",")), result)

    def others(self, place: int) -> str:
        """The axes of all operands but one."""
        return "".join(term for i, term in enumerate(self.operands) if i != place)


def axes(term: str, rank: int) -> list[str]:
    """A name for each axis of an operand of such a rank; those of "..." are counted from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{hidden - i}" for i in range(hidden)), *after]
