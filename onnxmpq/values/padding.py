"""Which positions of a sample are padding: an input tells, and nothing that is measured counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.values.arrays import Array


@dataclass(frozen=True, slots=True)
class Padding:
    """The input `mask` [N, positions] holds ones and zeros; `padded` is the one of both that stands for padding."""

    mask: str
    padded: int = 0

    def kept(self, feeds: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Which positions are none, bool [N, positions]."""
        return np.asarray(feeds[self.mask] != self.padded)
