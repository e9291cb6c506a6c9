"""Which nodes ONNX Runtime's CPU provider (1.31) has an integer kernel for, and in words why not for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS, IntegerKernel, WeightUse, deciding, operator_of, weight_places
from onnxmpq.passes.layout import loses_layout
from onnxmpq.passes.matching import attribute, is_constant, is_standard, optional_input, read
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS

# Integer kernels whose output has a scale of its own.
RESCALING = frozenset(
    {"Add", "AveragePool", "Concat", "GlobalAveragePool", "HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"}
)
# Operators that only choose or move values: they run on the codes where all their tensors share one scale.
MOVING = frozenset({
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "MaxPool", "Pad", "ReduceMax",
    "ReduceMin", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
_EMPTY = "a tensor of it holds no values"


def float_layers(graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str]) -> dict[str, str]:
    """Why a layer computes in float, by name; layers that can be integer are not listed."""
    uses: dict[str, list[WeightUse]] = {}
    for node in graph.nodes:
        for place in weight_places(node):
            uses.setdefault(node.inputs[place].name, []).append((node, place))
    nodes = {weight: [node for node, _ in deciding(some)] for weight, some in uses.items()}
    reasons = {la.name: _layer_refusal(la, nodes.get(la.weight, []), la.name in integer) for la in layers}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _layer_refusal(layer: Layer, nodes: Sequence[gs.Node], asked: bool) -> str | None:
    if layer.reason is not None:
        return layer.reason
    if layer.weights_only or not nodes:
        return "it lies in a control-flow subgraph"
    if layer.float_bits != FLOAT_BITS:
        return "its activations are half-precision; integer kernels take single precision"
    refusal = next(filter(None, map(_kernel_refusal, nodes)), None)
    return refusal if refusal or asked else "quantized activations were not asked for"


def _kernel_refusal(node: gs.Node) -> str | None:
    kernel = OPERATORS[node.op].integer
    if kernel is None:
        return _no_kernel(node.op)
    return _EMPTY if _is_empty([node.inputs[0], *node.outputs]) else kernel.refusal(node)


def _is_empty(tensors: Iterable[gs.Tensor]) -> bool:
    """True where one of the tensors is known to hold no values: there is nothing to find its scale by."""
    return any(0 in (tensor.shape or ()) for tensor in tensors)


def integer_kernel(node: gs.Node, weights: Collection[str]) -> IntegerKernel | None:
    """The kernel of a node that computes a layer with one of these weights; None for any other node."""
    operator = operator_of(node)
    is_layer = operator is not None and len(node.inputs) > 1 and node.inputs[1].name in weights
    return operator.integer if operator is not None and is_layer else None


def dynamic_kernel(node: gs.Node, weights: Collection[str]) -> IntegerKernel | None:
    """The integer kernel of such a node if it finds the range of its input when it runs."""
    kernel = integer_kernel(node, weights)
    return kernel if kernel is not None and kernel.dynamic else None


def _no_kernel(op: str) -> str:
    return f"ONNX Runtime's CPU provider has no integer kernel for {op}"


def refusal(node: gs.Node) -> str | None:
    """Why a node that is no layer cannot run as an integer kernel wherever it stands, None where it can."""
    if node.op not in RESCALING | MOVING or not is_standard(node):
        return _no_kernel(node.op)
    data = node.inputs[:1] if node.op in MOVING else node.inputs
    if all(isinstance(t, gs.Constant) for t in data):
        return "it computes a constant"
    if _is_empty([*data, *values_of(node)]):
        return _EMPTY
    if any(isinstance(t, gs.Constant) and math.prod(t.shape) != 1 for t in data):
        return "its constant operand has several values, too many for one scale"
    is_refused, what = _FORMS.get(node.op, (lambda _node: False, ""))
    if is_refused(node):
        return _no_kernel(what or f"Resize in mode {node.attrs['mode']}")
    return (
        "ONNX Runtime would run it with channels last, where its axes are others"
        if loses_layout(node)
        else None
    )


def values_of(node: gs.Node) -> list[gs.Tensor]:
    """The outputs that hold values of the input: all of a Split's, the first of any other node's."""
    return list(node.outputs) if node.op == "Split" else node.outputs[:1]


def _interpolates(node: gs.Node) -> bool:
    return node.op == "Resize" and attribute(node, "mode", "nearest") != "nearest"


def _pads_other(node: gs.Node) -> bool:
    """False for a Pad-11 or later whose zeros become the zero point's code (see `pad_codes`)."""
    value = optional_input(node, 2)
    zeros = value is None or (is_constant(value) and not read(value).any())
    return not (zeros and len(node.inputs) > 1 and attribute(node, "mode", "constant") == "constant")


def _falls_or_is_zero(node: gs.Node) -> bool:
    return attribute(node, "alpha", 0.2) <= 0 or attribute(node, "beta", 0.5) == 0


# Forms of operators that have no integer kernel: what tells them, and what they are called ("": by the mode of a Resize).
_FORMS: Mapping[str, tuple[Callable[[gs.Node], bool], str]] = {
    "AveragePool": (lambda node: set(attribute(node, "dilations", [1])) != {1}, "a dilated AveragePool"),
    "HardSigmoid": (_falls_or_is_zero, "a HardSigmoid that falls, or is 0 at 0"),
    "MaxPool": (lambda node: len(node.outputs) > 1, "MaxPool with indices"),
    "Pad": (_pads_other, "a Pad with anything but constant zeros"),
    "Resize": (_interpolates, ""),
}
