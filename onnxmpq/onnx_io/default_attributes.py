"""Attributes that say what holds without them: 34 bytes of every convolution."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnx import defs, helper

from onnxmpq.onnx_io.contents import DEFAULT_DOMAIN, graphs, opset_version

# The specification gives defaults of lists in words only: ones a spatial axis, and zeros.
_LISTS = {"strides": 1, "dilations": 1, "pads": 0}
_WINDOWED = frozenset({"Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool", "QLinearConv"})


def drop_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, edited in place: its nodes without the attributes that have their operators' default values."""
    opset = opset_version(model)
    for graph in graphs(model.graph):
        for node in graph.node:
            without_defaults(node, opset)
    return model


def without_defaults(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """One node, edited in place, of ONNX's own domain at an opset; nodes of other domains stay as they are."""
    if node.domain in DEFAULT_DOMAIN:
        kept = [a for a in node.attribute if not _is_default(node.op_type, opset, a)]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    return node


def _is_default(op: str, opset: int, attribute: onnx.AttributeProto) -> bool:
    if op in _WINDOWED and attribute.name in _LISTS:
        return set(attribute.ints) <= {_LISTS[attribute.name]}
    default = _defaults(op, opset).get(attribute.name)
    return default is not None and helper.get_attribute_value(attribute) == default


@cache
def _defaults(op: str, opset: int) -> dict[str, Any]:
    """The operator's optional attributes with a default in its schema; none of an operator that ONNX does not know."""
    if not defs.has(op, max_inclusive_version=opset):
        return {}
    known = defs.get_schema(op, opset).attributes
    return {
        name: helper.get_attribute_value(told.default_value)
        for name, told in known.items()
        if told.default_value.type != onnx.AttributeProto.UNDEFINED
    }
