"""Second moments from few windows, drawn to their diagonal as far as their own noise asks for.

With fewer windows than columns (a classifier behind global pooling sees one window a sample) a matrix has
directions in which nothing was seen; what is rounded against it as it is puts its errors there, and loses more than
nearest rounding does on other samples. OAS (Chen et al. 2010, arXiv 0907.4698, eq. 23), on correlations, so that
the target keeps each column's own energy:

    (1 - a) G + a diag(G),   a = ((1 - 2/p) tr(S^2) + p^2) / ((n + 1 - 2/p) (tr(S^2) - p)),   S = correlations of G
"""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.moments import Moments
from onnxmpq.values.arrays import Doubles

_MOST = 0.99  # some of what was seen always counts
_NOTHING = 1e-12


def shrunk(moments: Moments) -> Doubles:
    """The moments' matrices [group, D, D], drawn to their diagonals."""
    part = shrinkage(moments)[:, None, None]
    return (1 - part) * moments.gram + part * diagonals(moments.gram)


def shrinkage(moments: Moments) -> Doubles:
    """How far moments are to be drawn to their diagonals (OAS), float64 [group].

    Columns that nothing reached have no correlations and do not count.
    """
    energy = np.einsum("gii->gi", moments.gram)
    spread = np.sqrt(np.where(energy > 0, energy, 1.0))
    correlations = moments.gram / spread[:, :, None] / spread[:, None, :]
    size = np.maximum((energy > 0).sum(axis=1), 1)
    squares = np.square(correlations).sum(axis=(1, 2))
    correlated = np.maximum(squares - size, _NOTHING)
    rest = 1 - 2 / size
    asked = (rest * squares + size**2) / ((moments.count + rest) * correlated)
    return np.asarray(np.clip(asked, 0.0, _MOST), np.float64)


def diagonals(gram: Doubles) -> Doubles:
    """The same with all but the diagonals zero."""
    kept: Doubles = gram * np.eye(gram.shape[1])
    return kept
