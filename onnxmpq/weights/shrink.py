"""Second moments from few windows, drawn towards their diagonal as far as their own noise asks for.

With fewer windows than columns (a classifier behind global pooling sees one window a sample) a matrix has
directions in which nothing was seen; what is rounded against it as it is puts its errors there, and loses more than
nearest rounding does on other samples. OAS (Chen et al. 2010, arXiv 0907.4698, eq. 23), on correlations, so that
the target keeps each column's own energy:

    (1 - a) G + a diag(G),   a = ((1 - 2/p) tr(S^2) + p^2) / ((n + 1 - 2/p) (tr(S^2) - p)),   S = correlations of G
"""

from __future__ import annotations

import numpy as np

from onnxmpq.weights.gram import Doubles

_MOST = 0.99  # some of what was seen always counts


def shrinkage(gram: Doubles, count: float) -> Doubles:
    """How far the moments [group, D, D] of `count` windows are to be drawn to their diagonals, float64 [group].

    Columns that nothing reached have no correlations and do not count.
    """
    energy = np.einsum("gii->gi", gram)
    seen = energy > 0
    spread = np.sqrt(np.where(seen, energy, 1.0))
    squares = np.square(gram / spread[:, :, None] / spread[:, None, :]).sum(axis=(1, 2))
    size = np.maximum(seen.sum(axis=1), 1)
    correlated = np.maximum(squares - size, 1e-12)
    rest = 1 - 2 / size
    asked = (rest * squares + size**2) / ((count + rest) * correlated)
    return np.asarray(np.clip(asked, 0.0, _MOST), np.float64)


def shrunk(gram: Doubles, count: float) -> Doubles:
    """The moments [group, D, D] of `count` windows, drawn to their diagonals; those keep their values."""
    part = shrinkage(gram, count)[:, None, None]
    return (1 - part) * gram + part * diagonals(gram)


def diagonals(gram: Doubles) -> Doubles:
    """The same with all but the diagonals zero."""
    kept: Doubles = gram * np.eye(gram.shape[1])
    return kept
