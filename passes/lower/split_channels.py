"""A constant becomes several, each some of its channels, and the nodes that put them together again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import redirect
from onnxmpq.passes.node_builder import NodeBuilder, builders
from onnxmpq.values.group import part_name, place_type

_LOGGER = logging.getLogger(__name__)
_INT32 = 6  # TensorProto.INT32


@dataclass(frozen=True, slots=True)
class ChannelGroups:
    """Groups that together hold every index along `axis` once."""

    axis: int
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class SplitChannels:
    """Each constant of the main graph named in `split` becomes `part_name(name, i)` for each group i.

    The parts are joined by Concat and put in order by Gather, whose index is stored as uint8 (uint16 from 257
    channels on): what a map of who is where costs. ONNX Runtime folds both when it loads the model. Names that
    the graph has no constant for are left out. Preserving.
    """

    split: Mapping[str, ChannelGroups]

    def __call__(self, graph: gs.Graph) -> bool:
        builder = builders(graph)[0]
        tensors = graph.tensors()
        changed = False
        for name, groups in self.split.items():
            constant = tensors.get(name)
            if not isinstance(constant, gs.Constant):
                _LOGGER.debug("%s is not split: the graph has no such constant", name)
                continue
            redirect(constant.outputs, constant, _joined(builder, constant, groups))
            changed = True
        if changed:
            graph.toposort()
        return changed


def _joined(builder: NodeBuilder, constant: gs.Constant, split: ChannelGroups) -> gs.Variable:
    values, axis = constant.values, split.axis
    parts = [
        gs.Constant(part_name(constant.name, i), np.ascontiguousarray(values.take(group, axis)))
        for i, group in enumerate(split.groups)
    ]
    stacked = builder.node("Concat", parts, "split", {"axis": axis})
    place = np.argsort([channel for group in split.groups for channel in group])
    index = builder.constant("split_index", place.astype(place_type(len(place))))
    wide = builder.node("Cast", [index], "split", {"to": _INT32})
    output = builder.node("Gather", [stacked, wide], "split", {"axis": axis})
    output.dtype, output.shape = values.dtype, values.shape
    return output
