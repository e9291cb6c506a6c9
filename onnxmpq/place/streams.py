"""What a tensor's values flow into, and where they come from: what decides whether integers pay where they could be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, is_standard
from onnxmpq.place.readers import Readers
from onnxmpq.place.refusals import MOVING, RESCALING, integer_kernel, refusal

# Operators that divide by what all values of a row come to: an outlier's rounding is all others', too. ReduceMean and
# the sums begin such an operator that is written out.
_NORMALIZING = frozenset({
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization",
    "RMSNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "Softmax",
})  # fmt: skip
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "LeakyRelu", "Log", "Mul", "Neg", "Pow", "Reciprocal",
    "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_SUMMED = MOVING | {"Add", "Cast"}


def is_normalized(tensor: gs.Tensor, readers: Readers) -> bool:
    """True where values flow, as they are or in sums, into an operator that normalizes.

    The residual stream of a transformer does: it has outliers, which a scale for all has to hold, and pairs on it keep
    ONNX Runtime from its SkipLayerNormalization.
    """
    return any(
        node.op in _NORMALIZING for node in _readers_past(tensor, readers, lambda node: node.op in _SUMMED)
    )


def pools_last(node: gs.Node, readers: Readers, weights: Collection[str]) -> bool:
    """True for a MaxPool that ONNX Runtime would run on codes with channels first, 5 to 30 times as slow as in float.

    It runs integer layers with channels last, and moves the change back behind a pool where a convolution follows, or
    where nothing on the way to the pool is read twice. `weights` are those of integer layers.
    """
    if node.op != "MaxPool" or is_straight(node.inputs[0], readers, weights):
        return False
    kept = (MOVING | RESCALING) - {
        "Flatten",
        "GlobalAveragePool",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
    behind = _readers_past(node.outputs[0], readers, lambda reader: reader.op in kept)
    return not any(reader.op == "Conv" and integer_kernel(reader, weights) for reader in behind)


def _readers_past(
    tensor: gs.Tensor, readers: Readers, is_passed: Callable[[gs.Node], bool]
) -> Iterator[gs.Node]:
    """All nodes that read a tensor, or what the passed ones among them make of it."""
    seen, waiting = {tensor.name}, [tensor]
    while waiting:
        for node in readers.of(waiting.pop()):
            yield node
            fresh = [t for t in node.outputs if t.name not in seen] if is_passed(node) else []
            seen.update(t.name for t in fresh)
            waiting += fresh


def is_straight(tensor: gs.Tensor, readers: Readers, weights: Collection[str]) -> bool:
    """True where all that a tensor is made of comes from layers, each result on the way read once."""
    if not tensor.inputs or is_constant(tensor):
        return is_constant(tensor)
    maker = tensor.inputs[0]
    if readers.only(tensor) is None:
        return False
    if integer_kernel(maker, weights) is not None:
        return True
    return maker.op in _ELEMENTWISE | MOVING and all(
        is_straight(t, readers, weights) for t in maker.inputs[:2]
    )


def is_float_activation(node: gs.Node) -> bool:
    """True for a product x f(x) of which f, element by element, has no integer kernel: GELU or Mish, written out.

    For f its x has to be dequantized anyway, and ONNX Runtime has float kernels for the whole of some. Either factor may
    be scaled.
    """
    if node.op != "Mul" or any(map(is_constant, node.inputs)):
        return False
    first, second = node.inputs
    return _is_float_function(_unscaled(first), second) or _is_float_function(_unscaled(second), first)


def _unscaled(tensor: gs.Tensor) -> gs.Tensor:
    """A tensor without constant factors."""
    while (
        tensor.inputs
        and tensor.inputs[0].op in {"Mul", "Div"}
        and any(map(is_constant, tensor.inputs[0].inputs))
    ):
        tensor = next((t for t in tensor.inputs[0].inputs if not is_constant(t)), tensor)
    return tensor


def _is_float_function(source: gs.Tensor, tensor: gs.Tensor) -> bool:
    """True where operators on single elements, one of them without an integer kernel, make `tensor` of `source`."""
    seen, makers, waiting = {tensor.name}, [], [tensor]
    while waiting:
        maker = next(iter(waiting.pop().inputs), None)
        if maker is None or maker.op not in _ELEMENTWISE or not is_standard(maker):
            continue
        makers.append(maker)
        fresh = [t for t in maker.inputs if t.name not in seen and not is_constant(t)]
        seen.update(t.name for t in fresh)
        waiting += (t for t in fresh if t is not source)
    return source.name in seen - {tensor.name} and any(refusal(maker) is not None for maker in makers)
