"""Calls of a model's own functions, written out: inlined, with the defaults that a call leaves to the function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import inliner

from onnxmpq.onnx_io.contents import DEFAULT_DOMAIN, nodes

_Key = tuple[str, str, str]  # domain, name, overload


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its functions, but for those of another opset; `model` itself is edited.

    An attribute that a call does not give has the function's default (FunctionProto.attribute_proto), which onnx's
    inliner does not know.
    """
    if not model.functions:
        return model
    defaults = {_key(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions}
    for node in nodes(model):
        missing = defaults.get(_key(node.domain, node.op_type, node.overload), ())
        node.attribute.extend(_missing(node, missing))
    return inliner.inline_local_functions(model)


def _missing(node: onnx.NodeProto, defaults: Iterable[onnx.AttributeProto]) -> Iterator[onnx.AttributeProto]:
    given = {attribute.name for attribute in node.attribute}
    yield from (default for default in defaults if default.name not in given)


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain in DEFAULT_DOMAIN else domain, name, overload)
