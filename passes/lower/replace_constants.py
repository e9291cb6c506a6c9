"""Give named constants new values of the same shape and dtype."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplaceConstants:
    """Every constant of the main graph named in `values` takes that value. Lowering."""

    values: Mapping[str, NDArray[Any]]

    def __call__(self, graph: gs.Graph) -> bool:
        tensors = graph.tensors()
        changed = False
        for name, values in self.values.items():
            constant = tensors.get(name)
            if not isinstance(constant, gs.Constant):
                _LOGGER.debug("%s is not replaced: the graph has no such constant", name)
            elif (constant.values.shape, constant.values.dtype) != (values.shape, values.dtype):
                _LOGGER.debug("%s is not replaced: its shape or dtype differ", name)
            elif not np.array_equal(constant.values, values):
                constant.values = values
                changed = True
        return changed
