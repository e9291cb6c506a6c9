"""The arrays that all rooms speak of, by one name each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.int8]
Shape = tuple[int, ...]
