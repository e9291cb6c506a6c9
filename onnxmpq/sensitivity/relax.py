"""The continuous program of OMPQ and CSMPQ, as their authors run it, and how they make whole widths of it.

    max  sum_l importance_l x_l    s.t.  sum_l size_l x_l <= budget,   low / 8 <= x_l <= high / 8        (x = bits / 8)

It is a fractional knapsack, whose optimum is a vertex; their solver (SLSQP from x = 1) stops before it wherever
the importances are small or alike, near the point of the budget's plane closest to where it starts. So the
published policies come of it and not of the exact program, and the scale of the importances matters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from onnxmpq.errors import OptionError
from onnxmpq.values.arrays import Doubles

_MOST_BETWEEN = 40  # layers
_DIGITS = 6  # of a width that tell: what the solver leaves beside a bound is no fraction


def relaxed_widths(
    importance: Doubles, sizes: Doubles, budget: float, low: Doubles, high: Doubles
) -> Doubles:
    """Bits of each layer, float64 [layers], not whole.

    `sizes` are in MiB at 8 bits, `budget` in MiB, `low` and `high` in bits: the solver's tolerances are in
    these units.
    """
    # The import takes half a second, and only two methods need it.
    from scipy.optimize import minimize

    found = minimize(
        lambda x: -(importance @ x),
        np.ones(len(sizes)),
        jac=lambda _: -importance,
        method="SLSQP",
        bounds=list(zip(low / 8, high / 8, strict=True)),
        constraints={"type": "ineq", "fun": lambda x: np.array([budget - sizes @ x])},
    )
    widths: Doubles = 8 * np.asarray(found.x, np.float64)
    return widths


def nearest_widths(widths: Doubles, choices: Sequence[Iterable[int]]) -> list[int]:
    """The nearest choice of each layer, the narrower of two; may exceed the budget that the widths meet."""
    return [
        min(sorted(bits), key=lambda b, w=w: abs(b - w))  # type: ignore[misc]
        for bits, w in zip(choices, np.round(widths, _DIGITS).tolist(), strict=True)
    ]


def widths_within(widths: Doubles, choices: Sequence[Collection[int]], counts: Sequence[int]) -> list[int]:
    """Each width rounded down or up to a choice so that no more is stored than by `widths`, and of such the most.

    `counts` are the weights of each layer. A depth-first search from the last layer to the first, upward first,
    in which the first of equal ones wins. Exponential in the layers that fit neither way: raises OptionError for
    more than some dozens.
    """
    exact = np.round(widths, _DIGITS)
    down = [
        max([b for b in bits if b <= w], default=min(bits)) for bits, w in zip(choices, exact, strict=True)
    ]
    up = [min([b for b in bits if b >= w], default=max(bits)) for bits, w in zip(choices, exact, strict=True)]
    between = sum(low < high for low, high in zip(down, up, strict=True))
    if between > _MOST_BETWEEN:
        raise OptionError(
            f"{between} layers lie between two widths, and the authors' search for some dozens would not end; take "
            'program "relaxed"'
        )
    limit = math.floor(float(exact @ np.asarray(counts, np.float64)) + 1e-3)
    least = np.cumsum([0, *(b * n for b, n in zip(down, counts, strict=True))]).tolist()
    most = np.cumsum([0, *(b * n for b, n in zip(up, counts, strict=True))]).tolist()
    best = -1
    found: list[int] = down
    stack: list[tuple[int, int, tuple[int, ...]]] = [(len(counts), 0, ())]
    while stack:
        left, used, chosen = stack.pop()
        if used + least[left] > limit or used + most[left] <= best:
            continue
        if left == 0:
            best, found = used, list(chosen)
            continue
        for bits in sorted({down[left - 1], up[left - 1]}):  # the last one pushed is the first one tried
            stack.append((left - 1, used + bits * counts[left - 1], (bits, *chosen)))
    return found
