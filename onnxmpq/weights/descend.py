"""Coordinate descent on codes and scales, from a rounding that is good already.

The cost of a row is a square, (w - s q) H (w - s q)^T. With all else held, the best code of column j is

    q_j = round((w_j - (e_j - (e H)_j / H[j,j])) / s),     e = w - s q

and the best scale is s = (q H w) / (q H q). Neither step can raise the cost, so the two take turns.
Cyclic descent over the codes is QuantEase (Behdin et al. 2023, arXiv 2309.01885).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.weights.quantizer import Nearest
from onnxmpq.weights.rows import Stack
from onnxmpq.weights.walk import Curvature

_BLOCK = 32  # columns whose changes are carried on at once
_TURNS = 4  # further ones change little

Pool = Callable[[Stack], Stack]


def descend(
    rows: Stack, codes: Stack, steps: Stack, nearest: Nearest, curved: Curvature, pool: Pool
) -> tuple[Stack, Stack]:
    """Better codes [group, n, D] and scales [group, n] for rows in the walk's order.

    `nearest` gives a column in steps [group, n] its codes; `pool` sums values [group, n] over the rows that share a scale.
    """
    rows = rows.astype(np.float32)
    for _ in range(_TURNS):
        codes = _sweep(rows, codes, steps, nearest, curved.gram)
        steps = _refit(rows, codes, steps, curved.gram, pool)
    return codes, steps


def _sweep(rows: Stack, codes: Stack, steps: Stack, nearest: Nearest, gram: Stack) -> Stack:
    """Every code once, in order."""
    codes = codes.copy()
    slope = (rows - codes * steps[:, :, None]) @ gram
    diagonal = np.einsum("gii->gi", gram)
    for start in range(0, rows.shape[2], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[2])
        changes = np.empty((*rows.shape[:2], stop - start), np.float32)
        for j in range(start, stop):
            # The code's own error cancels out of w - (e - slope / H): what it is now, moved by the slope.
            wanted = codes[:, :, j] + slope[:, :, j] / (diagonal[:, None, j] * steps)
            best = nearest(wanted)
            change = (best - codes[:, :, j]) * steps
            codes[:, :, j] = best
            slope[:, :, j:stop] -= change[:, :, None] * gram[:, None, j, j:stop]
            changes[:, :, j - start] = change
        slope[:, :, stop:] -= changes @ gram[:, start:stop, stop:]
    return codes


def _refit(rows: Stack, codes: Stack, steps: Stack, gram: Stack, pool: Pool) -> Stack:
    """The scales of least cost for these codes; a row of zeros keeps its own."""
    bent = codes @ gram
    along = pool(np.einsum("gnd,gnd->gn", bent, rows))
    square = pool(np.einsum("gnd,gnd->gn", bent, codes))
    usable = (square > 0) & (along * steps > 0)  # a scale keeps its sign
    fitted: Stack = np.where(usable, along / np.where(usable, square, 1.0), steps).astype(np.float32)
    return fitted
