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
_BLOCK = 32  # columns that the errors of those before reach at once


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
    """The damped matrix and the upper Cholesky factor of its inverse; the identity where there is none."""
    identity = np.eye(gram.shape[1])
    for damping in _DAMPING:
        damped: Doubles = gram + damping * identity
        try:
            inverse = np.linalg.inv(damped)
            factor = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
        except np.linalg.LinAlgError:
            continue
        return damped, factor.transpose(0, 2, 1).astype(np.float64)
    plain = np.broadcast_to(identity, gram.shape)
    return plain, plain


def gptq(columns: Columns, steps: Stack, nearest: Nearest, curved: Curvature) -> tuple[Columns, Stack]:
    """Codes [group, D, n] of columns in GPTQ's order, and each row's cost [group, n].

    `steps` [group, n] are the scales, `nearest` gives a column in steps [group, n] its codes.
    """
    factor, size = curved.factor, columns.shape[1]
    diagonal = np.einsum("gii->gi", factor)
    codes, errors = np.empty_like(columns), np.empty_like(columns)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        behind: Columns = factor[:, :start, start:stop].transpose(0, 2, 1) @ errors[:, :start]
        for j in range(start, stop):
            within: Columns = factor[:, None, start:j, j] @ errors[:, start:j]
            column = columns[:, j] - behind[:, j - start] - within[:, 0]
            codes[:, j] = nearest(column / steps)
            errors[:, j] = (column - codes[:, j] * steps) / diagonal[:, j, None]
    return codes, np.einsum("gdn,gdn->gn", errors, errors)
