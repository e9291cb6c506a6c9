"""What a layer behind quantized ones should give: which tensor of the float network, less what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxmpq.onnx_io.subgraph import ancestors, names_read
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.operators import OPERATORS
from onnxmpq.values.layer import Layer

_SIZED_BY_DATA = frozenset({"Compress", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"})


@dataclass(frozen=True, slots=True)
class RegressionTarget:
    """`tensor` is one of the float network, `less` one of the quantized network (None: nothing).

    `includes_bias` is True where the layer's node adds the bias itself.
    """

    tensor: str
    less: str | None
    includes_bias: bool


def find_regression_target(
    layer: Layer, model: onnx.ModelProto, quantized: onnx.ModelProto, traced: Mapping[str, Traced]
) -> RegressionTarget | None:
    """The regression target of a layer that one node of the main graph computes; None where there is no such node, or no data reach it.

    Where its output only goes into an Add with a shortcut, the target is the float network's sum less the quantized
    network's shortcut: the layer then makes up for what the shortcut lost.
    """
    node = _only(n for n in model.graph.node if layer.weight in names_read(n))
    operator = None if node is None else OPERATORS.get(node.op_type)
    if node is None or operator is None or operator.targets is None or not _is_plain(node):
        return None
    place = len(node.input) if operator.bias is None else operator.bias.place
    bias = node.input[place] if len(node.input) > place else ""
    if bias and bias != layer.bias:
        return None
    makers = ancestors(model.graph.node, [node.output[0]])
    if any(n.op_type in _SIZED_BY_DATA for n in makers):
        return None  # the two networks need not find the same rows
    fed = {value.name for value in model.graph.input}
    if not any(fed.intersection(names_read(n)) for n in makers):
        return None  # it gives one row, whatever the batch
    outputs = {output.name for output in model.graph.output}
    alone = node.output[0] not in outputs
    sum_, less = (
        _shortcut(node.output[0], model.graph.node, quantized.graph.node, traced) if alone else (None, None)
    )
    return RegressionTarget(sum_ or node.output[0], less, bool(bias))


def _shortcut(
    output: str,
    nodes: Sequence[onnx.NodeProto],
    quantized: Sequence[onnx.NodeProto],
    traced: Mapping[str, Traced],
) -> tuple[str | None, str | None]:
    """(sum, the quantized network's other operand) of the Add that alone reads `output`."""
    add, behind = _adding(output, nodes), _adding(output, quantized)
    if add is None or behind is None:
        return None, None
    other = _other(behind, output)
    shapes = {traced[name].shape for name in (output, _other(add, output), add.output[0]) if name in traced}
    makers = ancestors(quantized, [other])
    if len(shapes) > 1 or not makers or any(output in names_read(n) or output in n.output for n in makers):
        return None, None
    return add.output[0], other


def _adding(tensor: str, nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto | None:
    add = _only(n for n in nodes if tensor in names_read(n))
    return add if add is not None and add.op_type == "Add" and add.input[0] != add.input[1] else None


def _other(add: onnx.NodeProto, tensor: str) -> str:
    return str(next(name for name in add.input if name != tensor))


def _is_plain(node: onnx.NodeProto) -> bool:
    """A Gemm may scale what it adds up."""
    scales = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in {"alpha", "beta"}}
    return all(value == 1.0 for value in scales.values())


def _only(nodes: Iterable[onnx.NodeProto]) -> onnx.NodeProto | None:
    found = list(nodes)
    return found[0] if len(found) == 1 else None
