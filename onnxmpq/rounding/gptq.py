"""Error-compensated rounding: each column's rounding error is made up for by the columns not yet rounded.

GPTQ (Frantar et al. 2022, arXiv 2210.17323), the fixed-order form of optimal brain quantization (Frantar and
Alistarh 2022, arXiv 2208.11580). For the rows w of a layer and H = sum x x^T of its inputs it takes the columns
j in order of falling H[j,j] and, with U the upper Cholesky factor of H^-1,

    q_j = round(w_j / s) s,     e_j = (w_j - q_j) / U[j,j],     w_k -= e_j U[j,k]   for all k > j

The sum of the e_j^2 is what the rounding costs: (w - q) H (w - q)^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.quantizer import Nearest
from onnxmpq.rounding.rows import Columns, Stack
from onnxmpq.values.arrays import Doubles, Floats

_DAMPING = (0.01, 0.1, 1.0)  # of the mean diagonal of H: the first that leaves it positive definite
_LEAST_ENERGY = 1e-6  # of the largest: where no group sees anything, the weights decide
_SMALL = 64  # columns of a triangular matrix that are inverted at once
_FEW = 8  # columns that the errors of those before reach one by one


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """What rounding a group's rows costs: `gram` damped and of mean diagonal 1, in GPTQ's order of columns.

    `order` and its inverse `back` are [group, D], `gram` and `factor`, the upper Cholesky factor of its
    inverse, float32 [group, D, D]. `energy`, float32 [group], is the mean diagonal that each had, of the largest one:
    what a cost counts beside those of other groups.
    """

    order: NDArray[np.intp]
    back: NDArray[np.intp]
    gram: Stack
    factor: Stack
    energy: Floats

    def ordered(self, rows: Stack) -> Columns:
        """The columns of rows [group, n, D] in GPTQ's order."""
        return np.ascontiguousarray(np.take_along_axis(rows.transpose(0, 2, 1), self.order[:, :, None], 1))

    def restored(self, columns: Columns) -> Stack:
        """The inverse of `ordered`."""
        return np.take_along_axis(columns, self.back[:, :, None], 1).transpose(0, 2, 1)

    def cost(self, errors: Columns) -> float:
        """What errors in GPTQ's order cost all groups together."""
        return float(np.einsum("gdn,gdn,g->", self.gram @ errors, errors, self.energy))


def curvature(gram: Doubles) -> Curvature:
    """Of second moments [group, D, D].

    A matrix that is singular all the same (few windows are dealt with before, `onnxmpq.rounding.shrink`) is damped
    more, which brings the result closer to that of nearest rounding.
    """
    scale = np.einsum("gii->gi", gram).mean(axis=1)
    # What is left of a constant input less its mean is rounding error, of either sign: no curvature at all.
    gram = (
        np.where(scale > 0, 1.0, 0.0)[:, None, None] * gram / np.where(scale > 0, scale, 1.0)[:, None, None]
    )
    order = np.argsort(-np.einsum("gii->gi", gram), axis=1, kind="stable")
    gram = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    damped, factor = _factor(gram)
    back = np.argsort(order, axis=1)
    largest = scale.max()
    energy = np.maximum(scale / (largest if largest > 0 else 1.0), _LEAST_ENERGY)
    return Curvature(
        order, back, damped.astype(np.float32), factor.astype(np.float32), energy.astype(np.float32)
    )


def _factor(gram: Doubles) -> tuple[Doubles, Doubles]:
    """The damped matrix and the upper Cholesky factor of its inverse; the identity where there is none.

    The factor of the inverse is the inverse of the factor R of the matrix itself, R R^T with R upper.
    """
    identity = np.eye(gram.shape[1])
    for damping in _DAMPING:
        damped: Doubles = gram + damping * identity
        try:
            lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
        except np.linalg.LinAlgError:
            continue
        return damped, _inverse_of_upper(np.ascontiguousarray(lower[:, ::-1, ::-1]))
    plain = np.broadcast_to(identity, gram.shape)
    return plain, plain


def _inverse_of_upper(factor: Doubles) -> Doubles:
    """The inverse of upper triangular matrices [group, D, D], by halves: large products do most of it."""
    size = factor.shape[1]
    if size <= _SMALL:
        inverse: Doubles = np.triu(np.linalg.inv(factor))
        return inverse
    first, second = slice(0, size // 2), slice(size // 2, size)
    found = np.zeros_like(factor)
    found[:, first, first] = _inverse_of_upper(factor[:, first, first])
    found[:, second, second] = _inverse_of_upper(factor[:, second, second])
    found[:, first, second] = -found[:, first, first] @ factor[:, first, second] @ found[:, second, second]
    return found


def gptq(columns: Columns, steps: Stack, nearest: Nearest, curved: Curvature) -> tuple[Columns, Stack]:
    """Codes [group, D, n] of columns in GPTQ's order, and each row's cost [group, n].

    `steps` [group, n] are the scales, `nearest` gives a column in steps [group, n] its codes.
    """
    diagonal = np.einsum("gii->gi", curved.factor)
    ahead = curved.factor / diagonal[:, :, None]
    left, codes = in_steps(columns, steps), np.empty_like(columns)
    _round(left, codes, ahead, nearest, 0, columns.shape[1])
    cost = np.einsum("gdn,gdn,gd->gn", left, left, 1 / np.square(diagonal), optimize=True)
    return codes, np.einsum("gn,gn,gn->gn", cost, steps, steps)  # which may be beyond what float32 holds


def in_steps(columns: Columns, steps: Stack, otherwise: float | Columns = 0.0) -> Columns:
    """The columns as multiples of their scales; `otherwise` where the scale vanished."""
    usable = has_scale(steps)[:, None]
    scales: Columns = np.where(usable, steps[:, None], np.float32(1))
    ratio: Columns = columns / scales
    return ratio if usable.all() else np.where(usable, ratio, np.float32(otherwise))


def has_scale(steps: Stack) -> NDArray[np.bool_]:
    """False where a row is so small that its scale vanished: one over it is no float32."""
    return np.abs(steps) >= np.finfo(np.float32).tiny


def _round(left: Columns, codes: Columns, ahead: Stack, nearest: Nearest, start: int, stop: int) -> None:
    """Round the columns from `start` to `stop` of what is left of the rows in steps; what is left becomes each column's error.

    By halves: one large product brings the errors of the first to the second.
    """
    if stop - start > _FEW:
        middle = start + halved(stop - start, _FEW)
        _round(left, codes, ahead, nearest, start, middle)
        left[:, middle:stop] -= ahead[:, start:middle, middle:stop].transpose(0, 2, 1) @ left[:, start:middle]
        _round(left, codes, ahead, nearest, middle, stop)
        return
    for j in range(start, stop):
        column = left[:, j]
        if j > start:
            column -= (ahead[:, None, start:j, j] @ left[:, start:j])[:, 0]
        codes[:, j] = nearest(column)
        column -= codes[:, j]


def halved(size: int, few: int) -> int:
    """About half of a size, in whole runs of so few."""
    return -(-size // few) // 2 * few
