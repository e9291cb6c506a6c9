"""Where activations are quantized: which tensors get a Q/DQ pair, which share a scale, and what stays in float.

The rules are those of ONNX Runtime's CPU provider (1.31, opsets 13 to 26), which replaces DQ -> op -> Q by one
integer kernel. Pure analysis: the graph is only read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import onnx_graphsurgeon as gs

from onnxmpq.operators import (
    OPERATORS,
    IntegerKernel,
    WeightUse,
    deciding,
    is_computing,
    operator_of,
    weight_places,
)
from onnxmpq.passes.layout import loses_layout
from onnxmpq.passes.matching import attribute, is_constant, is_standard, optional_input, read
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS
from onnxmpq.values.placement import Placement

# Integer kernels whose output has a scale of its own.
_RESCALING = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"})
# Of these, what leaves less to dequantize than came in: in integers even where the result is read in float.
_REDUCING = frozenset({"Add", "AveragePool", "GlobalAveragePool", "Mul"})
# Operators that only choose or move values: they run on the codes where all their tensors share one scale.
_MOVING = frozenset({
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "MaxPool", "Pad", "ReduceMax",
    "ReduceMin", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
_EMPTY = "a tensor of it holds no values"


@dataclass(frozen=True, slots=True)
class _Unit:
    """One integer kernel: a node, and the nodes behind it (`tail`) that the kernel takes in.

    `inputs` and `outputs` are the tensors that are quantized around it. The outputs of an `always` unit are
    quantized wherever its inputs are; those of others only where that is of use to somebody. The inputs
    `joined` share one scale with the outputs: that of the first input, or of the outputs where they `lead`.
    """

    node: gs.Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tail: tuple[gs.Node, ...] = ()
    is_layer: bool = False
    always: bool = False
    joined: tuple[str, ...] = ()
    lead: bool = False

    @property
    def nodes(self) -> tuple[gs.Node, ...]:
        return (self.node, *self.tail)


def place_activations(graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str]) -> Placement:
    """Quantize the activations around the layers named in `integer`, and whatever lies between them.

    The least set of tensors: inputs of integer layers, outputs of those that need it, both sides of every
    operator with an integer kernel that lies on a path between two such tensors, and what sums and pools make of
    them. What lies between float operators alone stays in float, as do control-flow subgraphs. `graph` is
    normalised and topologically sorted.
    """
    readers = _Readers(graph)
    left = float_layers(graph, layers, integer)
    weights = {layer.weight for layer in layers if layer.name not in left}
    units = list(_units(graph, readers, weights))
    quantized = _quantized(units)
    kernels = [u for u in units if u.is_layer or quantized.issuperset(u.inputs + u.outputs)]
    tensors = _in_order(graph, quantized)
    return Placement(
        tensors=tensors,
        same_scale=_groups(kernels, tensors),
        float_sources=_float_sources(kernels, tensors),
        split_biases=frozenset(_split_biases(kernels, quantized)),
        float_ops=_float_ops(graph, kernels, quantized),
        integer_layers=tuple(layer.name for layer in layers if layer.name not in left),
        float_layers=left,
    )


class _Readers:
    """Who reads a tensor of the main graph."""

    def __init__(self, graph: gs.Graph) -> None:
        self._own = {id(node) for node in graph.nodes}
        self._outputs = {tensor.name for tensor in graph.outputs}

    def is_output(self, tensor: gs.Tensor) -> bool:
        """True for an output of the graph."""
        return tensor.name in self._outputs

    def only(self, tensor: gs.Tensor) -> gs.Node | None:
        """The single place that reads `tensor`; None where a graph output or a subgraph does too."""
        if len(tensor.outputs) != 1 or self.is_output(tensor) or id(tensor.outputs[0]) not in self._own:
            return None
        return tensor.outputs[0]


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


def _no_kernel(op: str) -> str:
    return f"ONNX Runtime's CPU provider has no integer kernel for {op}"


def _units(graph: gs.Graph, readers: _Readers, weights: Collection[str]) -> Iterator[_Unit]:
    taken: set[int] = set()  # the tails of earlier units
    for node in graph.nodes:
        unit = None if id(node) in taken else _unit(node, readers, weights)
        if unit is not None:
            taken.update(map(id, unit.tail))
            yield unit


def _unit(node: gs.Node, readers: _Readers, weights: Collection[str]) -> _Unit | None:
    kernel = integer_kernel(node, weights)
    if kernel is not None:
        return _layer_unit(node, kernel, readers)
    if _refusal(node) is not None:
        return None
    return _moving_unit(node, readers) if node.op in _MOVING else _rescaling_unit(node, readers)


def _layer_unit(node: gs.Node, kernel: IntegerKernel, readers: _Readers) -> _Unit:
    """The unit of a layer, whose output must be quantized where its kernel gives codes alone, or takes in a sum.

    The runtime makes a Gemm of a MatMul and a sum, which has no integer kernel that takes a float bias and gives float.
    """
    reader = readers.only(node.outputs[0])
    adder = reader if kernel.takes_in_sum and reader is not None and reader.op == "Add" else None
    tail: tuple[gs.Node, ...] = ()
    if adder is None:
        tail = tuple(_clamps_behind(node, readers))
    elif any(is_constant(t) and len(t.shape) == 1 for t in adder.inputs):
        tail = (adder, *_clamps_behind(adder, readers))
    output = tail[-1].outputs[0] if tail else node.outputs[0]
    always = kernel.gives_codes or adder is not None
    return _Unit(node, (node.inputs[0].name,), (output.name,), tail, is_layer=True, always=always)


def _moving_unit(node: gs.Node, readers: _Readers) -> _Unit:
    """Clamping commutes with moving, so values that nobody else reads may be clamped before they are moved."""
    source = node.inputs[0]
    may_clamp = len(node.outputs) == 1 and _is_private(source, node, readers)
    tail = tuple(_clamps_behind(node, readers)) if may_clamp else ()
    outputs = tuple(t.name for t in (tail[-1].outputs if tail else _values(node)))
    return _Unit(node, (source.name,), outputs, tail, joined=(source.name,), lead=bool(tail))


def _rescaling_unit(node: gs.Node, readers: _Readers) -> _Unit:
    """What only a Concat reads ends on the Concat's scale: put on it at once, it is rounded once and then copied.

    But not what a clamp makes: its kernel clamps by saturating, hence on no wider scale than the clamp's own.
    """
    tail = tuple(_clamps_behind(node, readers))
    output = (node, *tail)[-1].outputs[0]
    low, high = _bounds(output)
    private = [
        t.name
        for t in node.inputs
        if node.op == "Concat"
        and _is_private(t, node, readers)
        and _bounds(t)[0] <= low
        and high <= _bounds(t)[1]
    ]
    return _Unit(
        node,
        tuple(t.name for t in node.inputs),
        (output.name,),
        tail,
        always=node.op in _REDUCING and not readers.is_output(output),
        joined=tuple(private),
        lead=True,
    )


def _is_private(tensor: gs.Tensor, reader: gs.Node, readers: _Readers) -> bool:
    """True where nobody but `reader` depends on the scale of `tensor`, back to where its values are made."""
    if readers.only(tensor) is not reader:
        return False
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in _MOVING:
        return True
    return len(maker.outputs) == 1 and _is_private(maker.inputs[0], maker, readers)


def _bounds(tensor: gs.Tensor) -> tuple[float, float]:
    """An interval that certainly holds a tensor's values: what clamps leave, moved and concatenated."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is not None and maker.op in _MOVING:
        return _bounds(maker.inputs[0])
    if maker is not None and maker.op == "Concat":
        lows, highs = zip(*map(_bounds, maker.inputs), strict=True)
        return min(lows), max(highs)
    if maker is not None and _clamps_at_zero(maker):
        limit = optional_input(maker, 2)
        high = math.inf if limit is None else float(read(limit).item())
        return 0.0, min(high, _bounds(maker.inputs[0])[1])
    return -math.inf, math.inf


def _values(node: gs.Node) -> list[gs.Tensor]:
    """The outputs that hold values of the input: all of a Split's, the first of any other node's."""
    return list(node.outputs) if node.op == "Split" else node.outputs[:1]


def _clamps_behind(node: gs.Node, readers: _Readers) -> Iterator[gs.Node]:
    """Relu and Clip(0, ...) that follow: a kernel's output saturates where they clamp."""
    reader = readers.only(node.outputs[0])
    while reader is not None and _clamps_at_zero(reader):
        yield reader
        reader = readers.only(reader.outputs[0])


def _clamps_at_zero(node: gs.Node) -> bool:
    if node.op != "Clip" or not is_standard(node):
        return node.op == "Relu" and is_standard(node)
    low, high = optional_input(node, 1), optional_input(node, 2)
    if not is_constant(low) or not (high is None or is_constant(high)):
        return False
    return read(low).item() == 0 and (high is None or read(high).item() > 0)


def _refusal(node: gs.Node) -> str | None:
    """Why a node cannot run as an integer kernel wherever it stands, None where it can."""
    if node.op not in _RESCALING | _MOVING or not is_standard(node):
        return _no_kernel(node.op)
    data = node.inputs[:1] if node.op in _MOVING else node.inputs
    if all(isinstance(t, gs.Constant) for t in data):
        return "it computes a constant"
    if _is_empty([*data, *_values(node)]):
        return _EMPTY
    if any(isinstance(t, gs.Constant) and math.prod(t.shape) != 1 for t in data):
        return "its constant operand has several values, too many for one scale"
    if node.op == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        return _no_kernel(f"Resize in mode {node.attrs['mode']}")
    if loses_layout(node):
        return "ONNX Runtime would run it with channels last, where its axes are others"
    if node.op == "AveragePool" and set(attribute(node, "dilations", [1])) != {1}:
        return _no_kernel("a dilated AveragePool")
    if node.op == "Pad" and not _pads_zeros(node):
        return _no_kernel("a Pad with anything but constant zeros")
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return _no_kernel("MaxPool with indices")
    return None


def _pads_zeros(node: gs.Node) -> bool:
    """True for a Pad-11 or later whose zeros become the zero point's code (see `pad_codes`)."""
    value = optional_input(node, 2)
    zeros = value is None or (is_constant(value) and not read(value).any())
    return zeros and len(node.inputs) > 1 and attribute(node, "mode", "constant") == "constant"


def _quantized(units: Sequence[_Unit]) -> frozenset[str]:
    """The least set of tensors that holds the layers' inputs and is closed under both rules below."""
    found = frozenset(chain.from_iterable(u.inputs for u in units if u.is_layer))
    while not found.issuperset(more := _behind(units, found) | _between(units, found)):
        found |= more
    return found


def _behind(units: Iterable[_Unit], quantized: frozenset[str]) -> frozenset[str]:
    """The outputs of layers and other units that always give codes for codes, where a kernel made some of these."""
    made: set[str] = set()
    found: set[str] = set()
    for unit in units:
        if not quantized.issuperset(unit.inputs):
            continue
        if unit.always and (unit.is_layer or not made.isdisjoint(unit.inputs)):
            found.update(unit.outputs)
        if unit.is_layer or quantized.issuperset(unit.outputs):
            made.update(unit.outputs)
    return frozenset(found)


def _between(units: Sequence[_Unit], quantized: frozenset[str]) -> frozenset[str]:
    """The tensors of all units on paths from a quantized tensor, or a layer, to a quantized tensor.

    One quantized input is enough: to quantize another is cheaper than to leave the integer domain and return.
    """
    reached = set(quantized)
    forward = []
    for unit in units:
        if unit.is_layer or not reached.isdisjoint(unit.inputs):
            reached.update(unit.outputs)
            forward.append(unit)
    needed = set(quantized)
    tensors: set[str] = set()
    for unit in reversed(forward):
        if not unit.is_layer and not needed.isdisjoint(unit.outputs):
            needed.update(unit.inputs)
            tensors.update(unit.inputs + unit.outputs)
    return frozenset(tensors)


def _in_order(graph: gs.Graph, names: Collection[str]) -> tuple[str, ...]:
    """Names in the order in which the graph makes them; constants where they are first read."""
    seen = chain([graph.inputs], *([node.inputs, node.outputs] for node in graph.nodes))
    order = dict.fromkeys(tensor.name for tensors in seen for tensor in tensors)
    return tuple(name for name in order if name in names)


def _groups(kernels: Iterable[_Unit], tensors: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Tensors that share one scale, each group led by the one whose range holds for all."""
    groups: dict[str, tuple[str, ...]] = {}
    for unit in kernels:
        if not unit.joined:
            continue
        members = dict.fromkeys(chain.from_iterable(groups.get(name, (name,)) for name in unit.joined))
        group = (*unit.outputs, *members) if unit.lead else (*members, *unit.outputs)
        groups.update(dict.fromkeys(group, group))
    return tuple(sorted(set(groups.values()), key=lambda group: min(map(tensors.index, group))))


def _float_sources(kernels: Sequence[_Unit], tensors: Sequence[str]) -> dict[str, frozenset[str]]:
    made = set(chain.from_iterable(u.outputs for u in kernels))
    users: dict[str, set[str]] = {name: set() for name in tensors if name not in made}
    for unit in kernels:
        for name in unit.inputs:
            if name in users:
                users[name].add(unit.node.outputs[0].name)
    return {name: frozenset(found) for name, found in users.items()}


def _split_biases(kernels: Iterable[_Unit], quantized: frozenset[str]) -> Iterator[str]:
    """Weights of nodes that have an integer kernel only without their bias."""
    for unit in kernels:
        kernel = OPERATORS[unit.node.op].integer if unit.is_layer else None
        if kernel is not None and kernel.leaves_bias(unit.node, unit.outputs[0] in quantized):
            yield unit.node.inputs[1].name


def _float_ops(graph: gs.Graph, kernels: Iterable[_Unit], quantized: frozenset[str]) -> dict[str, str]:
    integer = {id(node) for unit in kernels for node in unit.nodes}
    return {
        node.outputs[0].name: _why_float(node, quantized)
        for node in graph.nodes
        if id(node) not in integer
        and not is_computing(node.op)
        and node.op not in {"Shape", "Size"}
        and any(t.name in quantized for t in chain(node.inputs, node.outputs))
    }


def _why_float(node: gs.Node, quantized: frozenset[str]) -> str:
    if _clamps_at_zero(node):
        return "no integer kernel makes its input for it alone"
    reason = _refusal(node)
    if reason is not None:
        return reason
    if all(t.name not in quantized for t in _values(node)):
        return "its result is read in float"
    return "its inputs are made in float"
