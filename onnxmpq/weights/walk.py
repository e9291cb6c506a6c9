"""Error-compensated rounding: each column's rounding error is made up for by the columns not yet rounded.

GPTQ (Frantar et al. 2022, arXiv 2210.17323), the fixed-order form of optimal brain quantization (Frantar and
Alistarh 2022, arXiv 2208.11580). For the rows w of a layer and H = sum x x^T of its inputs it walks the columns
j in order of falling H[j,j] and, with U the upper Cholesky factor of H^-1,

    q_j = round(w_j / s) s,     e_j = (w_j - q_j) / U[j,j],     w_k -= e_j U[j,k]   for all k > j

The sum of the e_j^2 is what the rounding costs: (w - q) H (w - q)^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.weights.gram import Doubles
from onnxmpq.weights.quantizer import Floats, Nearest
from onnxmpq.weights.rows import Stack

_DAMPING = (0.01, 0.1, 1.0)  # of the mean diagonal of H: the first that leaves it positive definite
_LEAST_ENERGY = 1e-6  # of the largest: where no group sees anything, the weights decide
_BLOCK = 32  # columns whose errors are carried on at once


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """What rounding a group's rows costs: `gram` damped and of mean diagonal 1, in the walk's order of columns.

    `order` and its inverse `back` are [group, D], `gram` and `factor`, the upper Cholesky factor of its
    inverse, float32 [group, D, D]. `energy`, float32 [group], is the mean diagonal that each had, of the largest one:
    what a cost counts beside those of other groups.
    """

    order: NDArray[np.intp]
    back: NDArray[np.intp]
    gram: Stack
    factor: Stack
    energy: Floats

    def ordered(self, rows: Stack) -> Stack:
        """Columns of rows [group, n, D] in the walk's order."""
        return np.take_along_axis(rows, self.order[:, None, :], 2)

    def cost(self, errors: Stack) -> float:
        """What errors [group, n, D] in the walk's order cost all groups together."""
        bent = errors @ self.gram
        return float(np.einsum("gnd,gnd,g->", bent, errors, self.energy))

    def restored(self, rows: Stack) -> Stack:
        """The inverse of `ordered`."""
        return np.take_along_axis(rows, self.back[:, None, :], 2)


def curvature(gram: Doubles) -> Curvature:
    """Of second moments [group, D, D].

    A matrix that is singular all the same (few windows are dealt with before, `onnxmpq.weights.shrink`) is damped
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


def walk(rows: Stack, steps: Stack, nearest: Nearest, curved: Curvature) -> tuple[Stack, Stack]:
    """Codes [group, n, D] of rows in the walk's order, and each row's cost [group, n].

    `steps` [group, n] are the scales, `nearest` gives a column in steps [group, n] its codes.
    """
    left, factor = rows.astype(np.float32), curved.factor
    codes = np.empty_like(left)
    cost = np.zeros(left.shape[:2], np.float32)
    for start in range(0, left.shape[2], _BLOCK):
        stop = min(start + _BLOCK, left.shape[2])
        errors = np.empty((*left.shape[:2], stop - start), np.float32)
        for j in range(start, stop):
            column = left[:, :, j]
            codes[:, :, j] = nearest(column / steps)
            error = (column - codes[:, :, j] * steps) / factor[:, j, j][:, None]
            left[:, :, j:stop] -= error[:, :, None] * factor[:, None, j, j:stop]
            errors[:, :, j - start] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
        cost += np.square(errors).sum(axis=2)
    return codes, cost
