"""Coordinate descent on codes and scales, from a rounding that is good already.

The cost of a row is a square, (w - s q) H (w - s q)^T. With all else held, the best code of column j is

    q_j = round((w_j - (e_j - (e H)_j / H[j,j])) / s),     e = w - s q

and the best scale is s = (q H w) / (q H q). Neither step can raise the cost, so the two take turns.
Cyclic descent over the codes is QuantEase (Behdin et al. 2023, arXiv 2309.01885).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.rounding.gptq import Curvature
from onnxmpq.rounding.quantizer import Nearest
from onnxmpq.rounding.rows import Columns, Stack

_BLOCK = 32  # columns that the changes of those before reach at once
_TURNS = 4  # further ones change little

Pool = Callable[[Stack], Stack]


def coordinate_descent(
    columns: Columns, codes: Columns, steps: Stack, nearest: Nearest, curved: Curvature, pool: Pool
) -> tuple[Columns, Stack]:
    """Better codes [group, D, n] and scales [group, n] for columns in GPTQ's order.

    `nearest` gives a column in steps [group, n] its codes; `pool` sums values [group, n] over the rows that share a scale.
    """
    for _ in range(_TURNS):
        codes = _sweep(columns, codes, steps, nearest, curved.gram)
        steps = _refit(columns, codes, steps, curved.gram, pool)
    return codes, steps


def _sweep(columns: Columns, codes: Columns, steps: Stack, nearest: Nearest, gram: Stack) -> Columns:
    """Every code once, in order."""
    codes, changes, size = codes.copy(), np.empty_like(columns), columns.shape[1]
    slopes = gram @ (columns - codes * steps[:, None])
    diagonal = np.einsum("gii->gi", gram)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        behind = gram[:, start:stop, :start] @ changes[:, :start]
        for j in range(start, stop):
            within = gram[:, j, None, start:j] @ changes[:, start:j]
            slope = slopes[:, j] - behind[:, j - start] - within[:, 0]
            # The code's own error cancels out of w - (e - slope / H): what it is now, moved by the slope.
            curve = (
                diagonal[:, j, None] * steps
            )  # 0 where a row is so small that its scale vanishes: any code does
            best = nearest(codes[:, j] + np.divide(slope, curve, out=np.zeros_like(slope), where=curve != 0))
            changes[:, j] = (best - codes[:, j]) * steps
            codes[:, j] = best
    return codes


def _refit(columns: Columns, codes: Columns, steps: Stack, gram: Stack, pool: Pool) -> Stack:
    """The scales of least cost for these codes; a row of zeros keeps its own."""
    bent = gram @ codes
    along = pool(np.einsum("gdn,gdn->gn", bent, columns))
    square = pool(np.einsum("gdn,gdn->gn", bent, codes))
    usable = (square > 0) & (np.sign(along) == np.sign(steps))  # a scale keeps its sign
    fitted: Stack = np.where(usable, along / np.where(usable, square, 1.0), steps).astype(np.float32)
    return fitted
