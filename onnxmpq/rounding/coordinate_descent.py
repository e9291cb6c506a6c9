"""Coordinate descent on codes and scales, from a rounding that is good already.

The cost of a row is a square, (w - s q) H (w - s q)^T. With all else held, the best code of column j is

    q_j = round((w_j - (e_j - (e H)_j / H[j,j])) / s),     e = w - s q

and the best scale is s = (q H w) / (q H q). Neither step can raise the cost, so the two take turns.
Cyclic descent over the codes is QuantEase (Behdin et al. 2023, arXiv 2309.01885).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.rounding.gptq import Curvature, halved, has_scale, in_steps
from onnxmpq.rounding.quantizer import Nearest
from onnxmpq.rounding.rows import Columns, Stack

_FEW = 8  # columns that the changes of those before reach one by one
_TURNS = 2  # two more take 0.3 % off the error

Pool = Callable[[Stack], Stack]


def coordinate_descent(
    columns: Columns, codes: Columns, steps: Stack, nearest: Nearest, curved: Curvature, pool: Pool
) -> tuple[Columns, Stack]:
    """Better codes [group, D, v * n] and scales [group, v * n] for v roundings of columns [group, D, n] in GPTQ's order.

    `nearest` gives a column in steps [group, v * n] its codes; `pool` sums such values over the rows that share a scale.
    """
    diagonal = np.einsum("gii->gi", curved.gram)
    gram = curved.gram / diagonal[:, :, None]  # a slope is then what a code is to be moved by
    versions = codes.shape[2] // columns.shape[2]
    pull, columns = np.tile(gram @ columns, versions), np.tile(columns, versions)
    codes, changes = codes.copy(), np.empty_like(codes)
    slopes = gram @ (in_steps(columns, steps, codes) - codes)
    inverse = _inverse(steps)
    for _ in range(_TURNS):
        _sweep(slopes, codes, changes, gram, nearest, 0, columns.shape[1])
        steps = _refit(columns, codes, steps, pull * inverse - slopes, diagonal, pool)
        before, inverse = inverse, _inverse(steps)
        slopes += pull * (inverse - before)
    return codes, steps


def _sweep(
    slopes: Columns, codes: Columns, changes: Columns, gram: Stack, nearest: Nearest, start: int, stop: int
) -> None:
    """Every code from column `start` to `stop` once, in order, and their slopes as they are then.

    By halves: one large product brings the changes of each to the other.
    """
    if stop - start > _FEW:
        middle = start + halved(stop - start, _FEW)
        first, second = slice(start, middle), slice(middle, stop)
        _sweep(slopes, codes, changes, gram, nearest, start, middle)
        slopes[:, second] -= gram[:, second, first] @ changes[:, first]
        _sweep(slopes, codes, changes, gram, nearest, middle, stop)
        slopes[:, first] -= gram[:, first, second] @ changes[:, second]
        return
    for j in range(start, stop):
        code, change = codes[:, j], changes[:, j]
        # The code's own error cancels out of w - (e - slope / H): what it is now, moved by the slope.
        wanted = code + slopes[:, j]
        if j > start:
            wanted -= (gram[:, j, None, start:j] @ changes[:, start:j])[:, 0]
        best = nearest(wanted)
        np.subtract(best, code, out=change)
        code[...] = best
    slopes[:, start:stop] -= gram[:, start:stop, start:stop] @ changes[:, start:stop]


def _refit(
    columns: Columns, codes: Columns, steps: Stack, bent: Columns, diagonal: Stack, pool: Pool
) -> Stack:
    """The scales of least cost for these codes; a row of zeros keeps its own. `bent` times the diagonal is q H."""
    along = pool(np.einsum("gdn,gdn,gd->gn", bent, columns, diagonal, optimize=True))
    square = pool(np.einsum("gdn,gdn,gd->gn", bent, codes, diagonal, optimize=True))
    usable = (square > 0) & (np.sign(along) == np.sign(steps))  # a scale keeps its sign
    fitted: Stack = np.where(usable, along / np.where(usable, square, 1.0), steps).astype(np.float32)
    return fitted


def _inverse(steps: Stack) -> Columns:
    """One over each scale, 0 for one that vanished, along the columns [group, 1, n]."""
    return np.divide(1, steps, out=np.zeros_like(steps), where=has_scale(steps))[:, None]
