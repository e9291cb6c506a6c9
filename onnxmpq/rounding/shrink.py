"""Second moments from few windows, drawn to what is known of them otherwise, as far as their own noise asks for.

With fewer windows than columns (a classifier behind global pooling sees one window a sample) a matrix has
directions in which nothing was seen; what is rounded against it as it is puts its errors there, and loses more than
nearest rounding does on other samples. OAS (Chen et al. 2010, arXiv 0907.4698, eq. 23), on correlations, so that
the target keeps each column's own energy:

    (1 - a) G + a diag(G),   a = ((1 - 2/p) tr(S^2) + p^2) / ((n + 1 - 2/p) (tr(S^2) - p)),   S = correlations of G

Where the windows are means over maps, the channels of the maps' positions, less those means, go together much as
the means do, with noise of their own. With P their correlations the target has s P off the diagonal, and the
expected |(1 - a) S + a s P - C|^2 there, C being the true correlations, is least at

    s = <S, P> / |P|^2,   1 - a = (|C|^2 - 2 s <S, P> + s^2 |P|^2) / |S - s P|^2,   |C|^2 = (|S|^2 - m/n) / (1 + 1/n)

for m entries, each with the noise (1 + C_ij^2) / n of a product's mean over n Gaussian windows. s is kept in 0 to 1.
"""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.moments import Moments
from onnxmpq.values.arrays import Doubles

_MOST = 0.99  # some of what was seen always counts
_NOTHING = 1e-12


def shrunk(moments: Moments) -> Doubles:
    """The moments' matrices [group, D, D], drawn to their target; their diagonals keep their values."""
    part, target = shrinkage(moments)
    return (1 - part)[:, None, None] * moments.gram + part[:, None, None] * target


def shrinkage(moments: Moments) -> tuple[Doubles, Doubles]:
    """How far moments are to be drawn, float64 [group], and to what, float64 [group, D, D].

    Columns that nothing reached have no correlations and do not count.
    """
    gram = moments.gram
    if moments.within is None or not _seen(moments.within).any():
        return _to_diagonal(gram, moments.count), diagonals(gram)
    return _to_within(gram, moments.count, moments.within)


def _to_diagonal(gram: Doubles, count: float) -> Doubles:
    """OAS."""
    size = np.maximum(_seen(gram).sum(axis=1), 1)
    squares = np.square(_correlations(gram)).sum(axis=(1, 2))
    correlated = np.maximum(squares - size, _NOTHING)
    rest = 1 - 2 / size
    asked = (rest * squares + size**2) / ((count + rest) * correlated)
    return np.asarray(np.clip(asked, 0.0, _MOST), np.float64)


def _to_within(gram: Doubles, count: float, within: Doubles) -> tuple[Doubles, Doubles]:
    """The formula above."""
    seen = _seen(gram)
    both = seen[:, :, None] & seen[:, None, :]
    own, other = (_off_diagonal(_correlations(some)) * both for some in (gram, within))
    size = seen.sum(axis=1)
    squares, mixed, others = (
        np.einsum("gij,gij->g", *pair) for pair in ((own, own), (own, other), (other, other))
    )
    alike = np.clip(mixed / np.maximum(others, _NOTHING), 0.0, 1.0)
    true = (squares - size * (size - 1) / count) / (1 + 1 / count)
    theirs = alike * (alike * others - 2 * mixed)
    kept = (true + theirs) / np.maximum(squares + theirs, _NOTHING)
    spread = np.sqrt(np.einsum("gii->gi", gram))
    target = alike[:, None, None] * other * spread[:, :, None] * spread[:, None, :] + diagonals(gram)
    return 1 - np.clip(kept, 1 - _MOST, 1.0), target


def _seen(gram: Doubles) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.einsum("gii->gi", gram) > 0
    return found


def _correlations(gram: Doubles) -> Doubles:
    spread = np.sqrt(np.where(_seen(gram), np.einsum("gii->gi", gram), 1.0))
    found: Doubles = gram / spread[:, :, None] / spread[:, None, :]
    return found


def _off_diagonal(gram: Doubles) -> Doubles:
    return gram - diagonals(gram)


def diagonals(gram: Doubles) -> Doubles:
    """The same with all but the diagonals zero."""
    kept: Doubles = gram * np.eye(gram.shape[1])
    return kept
