"""What a tensor was in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper


@dataclass(frozen=True, slots=True)
class Traced:
    """What a value was in one run: its onnx element type and its shape.

    `containers` are what its tensors come in, outermost first: "seq" or "optional" (a plain tensor: none). The
    shape of such a value is ().
    """

    elem_type: int
    shape: tuple[int, ...]
    containers: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type in NumPy."""
        return helper.tensor_dtype_to_np_dtype(self.elem_type)
