"""Weights that are computed from constants become constants, where the file gets smaller."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.operators import operator_of, weight_places
from onnxmpq.passes.matching import (
    FLOATS,
    NoMatch,
    graphs,
    is_captured,
    is_constant,
    is_float_constant,
    position,
    producer,
    remove,
    require,
    type_name,
    unique_name,
)
from onnxmpq.passes.normalize.constant_nodes import (
    SHARED_VALUES,
    STORED_BYTES,
    behind_views,
    bytes_without,
    evaluated,
    needless,
    nodes_as_model,
)
from onnxmpq.values.arrays import Array

_log = logging.getLogger(__name__)

# Operators that give the same for the same constants, whatever runs them (but for rounding).
_LAYOUT = (
    "Cast CastLike Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND "
    "Identity Pad Range Reshape ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Trilu Unsqueeze Where"
)
_ELEMENTWISE = (
    "Abs Add And Ceil Clip Div Equal Erf Exp Floor Greater GreaterOrEqual HardSigmoid LeakyRelu Less LessOrEqual Log "
    "Max Mean Min Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Sigmoid Sign Softmax Softplus Sqrt Sub Sum Tanh "
    "ThresholdedRelu Xor"
)
_REDUCING = (
    "ArgMax ArgMin CumSum Einsum Gemm MatMul ReduceL1 ReduceL2 ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_QUANTIZING = "DequantizeLinear DynamicQuantizeLinear QuantizeLinear"
FOLDED = frozenset(f"{_LAYOUT} {_ELEMENTWISE} {_REDUCING} {_QUANTIZING}".split())

_SHARED_BYTES = 1024  # weights that share a smaller constant, a zero say, have nothing to do with each other


@dataclass(frozen=True, slots=True)
class _Computed:
    """A tensor that is a layer's weight but for views, and the nodes of its graph that make it from constants, in order."""

    part: gs.Graph
    tensor: gs.Tensor
    makers: tuple[gs.Node, ...]


def fold_computed_weights(graph: gs.Graph) -> bool:
    """Compute the weights of layers (`onnxmpq.operators`) once, where constants alone make them.

    Whatever computes them: parts of a constant (Slice, Split, Gather), arithmetic (weight normalisation), quantization
    written out or through QuantizeLinear and DequantizeLinear. Works inside control-flow subgraphs too. Only where the
    written file gets smaller: the nodes and constants that go take more bytes than the weights do at one byte an
    element, weights made from one constant taken together, in several bodies too, and equal ones once
    (`share_equal_weights`). Codes are left: they are smaller than the weight that they
    stand for. Preserving: equal but for rounding.
    """
    changed = False
    for together in _groups([one for part in graphs(graph) for one in _computed_weights(part)]):
        try:
            _fold(graph, together)
        except NoMatch as reason:
            _log.debug("%s: left alone: %s", ", ".join(c.tensor.name for c in together), reason)
        else:
            changed = True
    return changed


def why_computed(graph: gs.Graph, weight: gs.Tensor) -> str:
    """Why a weight that constants make is left computed in a graph, in words that follow "its weight is"."""
    try:
        makers = _computed(graph, behind_views(weight)).makers
    except NoMatch as reason:
        return str(reason)
    if not makers:
        return "a view of a constant"
    return f"computed by {makers[-1].op}; its codes would take more bytes than what computes it"


def _computed_weights(graph: gs.Graph) -> list[_Computed]:
    """What becomes the weights of a graph's own layers, each once."""
    read = [node.inputs[i] for node in graph.nodes if operator_of(node) for i in weight_places(node)]
    tensors = {id(tensor): tensor for tensor in map(behind_views, read) if tensor.inputs}
    found = []
    for tensor in tensors.values():
        try:
            found.append(_computed(graph, tensor))
        except NoMatch as reason:
            _log.debug("%s is left alone: it is %s", tensor.name, reason)
    return found


def _computed(graph: gs.Graph, tensor: gs.Tensor) -> _Computed:
    """A tensor and its makers; NoMatch where they are not folded."""
    require(not any(tensor is output for output in graph.outputs), "an output of the model")
    require(not is_captured(graph, tensor), "computed for a control-flow body")
    found: dict[int, gs.Node] = {}
    waiting = [tensor]
    while waiting:
        read = waiting.pop()
        if is_constant(read) or read.is_empty():
            continue
        _require_numbers(read)
        node = producer(read)
        require(node.op in FOLDED, f"computed by {node.op}, which is not folded")
        if id(node) not in found:
            found[id(node)] = node
            waiting.extend(node.inputs)
    makers = tuple(node for node in graph.nodes if id(node) in found)
    require(len(makers) == len(found), "computed outside of the control-flow body that reads it")
    _require_floats(makers)
    return _Computed(graph, tensor, makers)


def _require_numbers(tensor: gs.Tensor) -> None:
    """NoMatch for a constant of a type that NumPy lacks."""
    if isinstance(tensor, gs.Constant):
        name = type_name(tensor) or "sparse"
        is_code = name.startswith(("int", "uint", "float4", "float8"))
        raise NoMatch("quantized already" if is_code else f"computed from {name}, which is not folded")


def _require_floats(makers: Sequence[gs.Node]) -> None:
    """NoMatch where codes are the largest of the constants that makers read; int64 are shapes and indices."""
    constants = [tensor for node in makers for tensor in node.inputs if is_constant(tensor)]
    codes = [t for t in constants if t.dtype.kind in "iu" and t.dtype.itemsize < 8]
    floats = [math.prod(t.shape) for t in constants if is_float_constant(t)]
    largest = max((math.prod(t.shape) for t in codes), default=0)
    require(largest <= max(floats, default=0), "quantized already")


def _groups(computed: Sequence[_Computed]) -> list[list[_Computed]]:
    """Those that share a node or a large constant together: what one leaves for the others still takes its bytes."""
    groups: list[tuple[set[int], list[_Computed]]] = []
    for one in computed:
        own = {id(node) for node in one.makers}
        own |= {
            id(t) for node in one.makers for t in node.inputs if is_constant(t) and _bytes(t) > _SHARED_BYTES
        }
        met = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        groups.append((own.union(*(keys for keys, _ in met)), [c for _, some in met for c in some] + [one]))
    return [together for _, together in groups]


def _bytes(constant: gs.Constant) -> int:
    return int(math.prod(constant.shape) * constant.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """Some computed tensors of one graph, all that makes them, the same as a model, and what comes of it by tensor's id."""

    part: gs.Graph
    makers: list[gs.Node]
    model: onnx.ModelProto
    values: dict[int, Array]


def _evaluated(part: gs.Graph, computed: Sequence[_Computed], opset: int) -> _Evaluated:
    """Raises NoMatch where something cannot be evaluated."""
    ids = {id(node) for one in computed for node in one.makers}
    makers = [node for node in part.nodes if id(node) in ids]
    tensors = [one.tensor for one in computed]
    model = nodes_as_model(makers, tensors, opset)
    return _Evaluated(part, makers, model, dict(zip(map(id, tensors), evaluated(model), strict=True)))


def _fold(graph: gs.Graph, together: Sequence[_Computed]) -> None:
    """Make those of a group constants that are worth it; NoMatch where none is."""
    parts = {id(one.part): one.part for one in together}.values()
    found = [_evaluated(part, [c for c in together if c.part is part], graph.opset) for part in parts]
    values = {key: array for one in found for key, array in one.values.items()}
    floats = [one.tensor for one in together if values[id(one.tensor)].dtype in FLOATS]

    def gone(tensors: Sequence[gs.Tensor]) -> list[gs.Node]:
        replaced = {id(tensor) for tensor in tensors}
        return [node for one in found for node in needless(one.makers, replaced, one.part)]

    def needed(tensors: Sequence[gs.Tensor]) -> int:
        found = {id(tensor): values[id(tensor)] for tensor in tensors}
        different = {v.tobytes() if v.size >= SHARED_VALUES else key: v.size for key, v in found.items()}
        return sum(different.values()) * STORED_BYTES

    def gain(tensors: Sequence[gs.Tensor]) -> int:
        return bytes_without([(one.model, one.makers) for one in found], gone(tensors)) - needed(tensors)

    folded = _worthwhile(floats, gain)
    if not folded:
        takes = needed(floats)
        raise NoMatch(f"they would take {takes} bytes, what computes them takes {gain(floats) + takes}")
    dropped = gone(folded)
    for one in found:
        remove(one.part, [node for node in one.makers if any(node is other for other in dropped)])
    for tensor in folded:
        _detach(graph, tensor)
        tensor.to_constant(values[id(tensor)])


def _worthwhile(tensors: Sequence[gs.Tensor], gain: Callable[[Sequence[gs.Tensor]], int]) -> list[gs.Tensor]:
    """Those that gain the most together, found by leaving out one at a time; none where nothing is gained."""
    kept, most = list(tensors), gain(tensors)
    while len(kept) > 1:
        fewer = [kept[:i] + kept[i + 1 :] for i in range(len(kept))]
        gains = [gain(some) for some in fewer]
        if max(gains) <= most:
            break
        most = max(gains)
        kept = fewer[gains.index(most)]
    return kept if most > 0 else []


def _detach(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """The node that makes a tensor and others, which are still read, makes one in its place that nobody reads."""
    for node in list(tensor.inputs):
        node.outputs[position(node.outputs, tensor)] = gs.Variable(
            unique_name(graph, f"{tensor.name}_unread")
        )
