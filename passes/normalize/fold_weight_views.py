"""Weights that are computed from constants become constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import (
    NoMatch,
    attribute,
    is_captured,
    is_constant,
    is_float_constant,
    producer,
    remove,
    require,
    rewrites,
)
from onnxmpq.values.arrays import Array

# Operators that keep the number of elements, and those that may make much out of little.
_VIEWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})
_ARITHMETIC = frozenset({
    "Add", "Concat", "ConstantOfShape", "Div", "Expand", "Mul", "Neg", "Pow", "Reciprocal", "ReduceL2", "ReduceSum",
    "Slice", "Sqrt", "Sub", "Tile",
})  # fmt: skip
_FLOAT_TYPES = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
_STORED_BYTES = 1  # per element: what a weight takes once it has codes


@rewrites(OPERATORS)
def fold_weight_views(graph: gs.Graph, layer: gs.Node) -> None:
    """Compute the weight of a layer (`onnxmpq.operators`) once, where constants alone make it.

    Views (Transpose, Reshape, Squeeze, Unsqueeze, Flatten, Identity, Cast between floats) are always folded;
    a constant behind them that others read as well stays for those. ConstantOfShape, Expand and arithmetic
    (weight normalisation, say) only where the written file gets smaller: the nodes and constants that go
    take more bytes than the weight does at one byte an element. Codes, from integers or through
    DequantizeLinear, are left: they are smaller than the weight they stand for. Preserving: views are
    bit-equal, arithmetic is equal but for rounding.
    """
    weight, makers = _computed_weight(graph, layer)
    require(weight not in graph.outputs, f"the weight {weight.name} is a graph output")
    require(not is_captured(graph, weight), f"the weight {weight.name} is read by a subgraph")
    unneeded = _only_for(weight, makers, graph)
    model = _model_of(makers, weight, graph)
    values = _evaluate(model)
    if not _VIEWS.issuperset(node.op for node in makers):
        freed, needed = _bytes_of(model, makers, unneeded), values.size * _STORED_BYTES
        require(needed < freed, f"{weight.name} would take {needed} bytes, what computes it takes {freed}")
    makers[-1].outputs.clear()
    weight.to_constant(values)
    remove(graph, unneeded)


def _computed_weight(graph: gs.Graph, layer: gs.Node) -> tuple[gs.Tensor, list[gs.Node]]:
    """The layer's weight and the nodes that compute it from constants, in order."""
    reasons = []
    for index in (i for i in OPERATORS[layer.op].weights if i < len(layer.inputs)):
        try:
            return layer.inputs[index], _makers(graph, layer.inputs[index])
        except NoMatch as reason:
            reasons.append(str(reason))
    raise NoMatch("; ".join(reasons))


def _makers(graph: gs.Graph, weight: gs.Tensor) -> list[gs.Node]:
    """All nodes between constants and `weight`, in order."""
    require(not is_constant(weight), f"{weight.name} is a constant already")
    found: dict[int, gs.Node] = {}
    pending = [weight]
    while pending:
        tensor = pending.pop()
        if is_constant(tensor) or tensor.is_empty():
            continue
        node = producer(tensor)
        require(node.op in _VIEWS | _ARITHMETIC, f"{tensor.name} is made by {node.op}, which is not folded")
        if id(node) not in found:
            found[id(node)] = node
            pending.extend(node.inputs)
    require(
        all(_is_float(node.outputs[0]) for node in found.values()), f"{weight.name} is made from integers"
    )
    return [node for node in graph.nodes if id(node) in found]


def _is_float(tensor: gs.Tensor) -> bool:
    """True where the tensor and all that it is a view of are floating-point."""
    if is_constant(tensor):
        return is_float_constant(tensor)
    node = producer(tensor)
    if node.op == "ConstantOfShape":
        return "value" not in node.attrs or is_float_constant(node.attrs["value"])
    if node.op == "Cast" and attribute(node, "to", TensorProto.FLOAT) not in _FLOAT_TYPES:
        return False
    return bool(node.inputs) and _is_float(node.inputs[0])


def _only_for(weight: gs.Tensor, makers: Sequence[gs.Node], graph: gs.Graph) -> list[gs.Node]:
    """Those of the weight's makers whose results nothing else needs, the last first."""
    found: list[gs.Node] = []
    for node in reversed(makers):
        output = node.outputs[0]
        readers = [] if output is weight else output.outputs
        if output not in graph.outputs and all(any(r is f for f in found) for r in readers):
            found.append(node)
    return found


def _model_of(makers: list[gs.Node], weight: gs.Tensor, graph: gs.Graph) -> onnx.ModelProto:
    part = gs.Graph(nodes=makers, outputs=[weight], opset=graph.opset)
    model: onnx.ModelProto = gs.export_onnx(part, do_type_check=False)
    return model


def _evaluate(model: onnx.ModelProto) -> Array:
    from onnx.reference import ReferenceEvaluator  # slow to import, and few models need it

    with np.errstate(all="ignore"):
        (values,) = ReferenceEvaluator(model).run(None, {})
    return np.ascontiguousarray(values)


def _bytes_of(model: onnx.ModelProto, makers: Sequence[gs.Node], unneeded: Sequence[gs.Node]) -> int:
    """What leaves the file with the unneeded nodes: they, and the constants that only they read."""
    gone = {id(node) for node in unneeded}
    nodes = [proto for proto, node in zip(model.graph.node, makers, strict=True) if id(node) in gone]
    constants = {
        tensor.name
        for node in unneeded
        for tensor in node.inputs
        if is_constant(tensor) and all(id(reader) in gone for reader in tensor.outputs)
    }
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in constants]
    return sum(proto.ByteSize() for proto in [*nodes, *tensors])
