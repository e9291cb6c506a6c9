"""The integer kernels that ONNX Runtime's CPU provider could make of a graph: each a node, and what it takes in behind."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxmpq.operators import IntegerKernel
from onnxmpq.passes.matching import is_constant, known_rank
from onnxmpq.place.clamps import bounds, clamps_behind
from onnxmpq.place.readers import Readers
from onnxmpq.place.refusals import MOVING, integer_kernel, refusal, values_of
from onnxmpq.place.streams import is_float_activation, is_normalized, pools_last

# What leaves less to dequantize than came in: in integers even where the result is read in float.
_REDUCING = frozenset({"Add", "AveragePool", "GlobalAveragePool", "Mul"})
_ELEMENTWISE = frozenset({"Add", "Mul"})


@dataclass(frozen=True, slots=True)
class Unit:
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


def units_of(
    graph: gs.Graph, readers: Readers, weights: Collection[str], *, whole: bool = False
) -> Iterator[Unit]:
    """The kernels that a graph could run as, in order; `weights` are those of the layers that are to be integer.

    `whole`: also where ONNX Runtime would be slower for it.
    """
    taken: set[int] = set()  # the tails of earlier units
    for node in graph.nodes:
        unit = None if id(node) in taken else _unit(node, readers, weights, whole)
        if unit is not None:
            taken.update(map(id, unit.tail))
            yield unit


def better_in_float(node: gs.Node, readers: Readers, weights: Collection[str]) -> str | None:
    """Why a node that has an integer kernel is left in float where it stands, None where it is not."""
    if is_float_activation(node):
        return "it completes an activation that is computed in float"
    if pools_last(node, readers, weights):
        return "ONNX Runtime would pool its codes with channels first, which is slow"
    return None


def _unit(node: gs.Node, readers: Readers, weights: Collection[str], whole: bool) -> Unit | None:
    kernel = integer_kernel(node, weights)
    if kernel is not None:
        return _layer_unit(node, kernel, readers)
    if refusal(node) is not None or not (whole or better_in_float(node, readers, weights) is None):
        return None
    return _moving_unit(node, readers) if node.op in MOVING else _rescaling_unit(node, readers)


def _layer_unit(node: gs.Node, kernel: IntegerKernel, readers: Readers) -> Unit:
    """The unit of a layer, whose output must be quantized where its kernel gives codes alone, or takes in a sum."""
    reader = readers.only(node.outputs[0])
    adder = reader if kernel.takes_in_sum and reader is not None and reader.op == "Add" else None
    if adder is not None and stands_apart(node, adder):
        return Unit(node, (node.inputs[0].name,), (node.outputs[0].name,), is_layer=True)
    tail: tuple[gs.Node, ...] = ()
    if adder is None:
        tail = tuple(clamps_behind(node, readers))
    elif any(is_constant(t) and len(t.shape) == 1 for t in adder.inputs):
        tail = (adder, *clamps_behind(adder, readers))
    output = tail[-1].outputs[0] if tail else node.outputs[0]
    always = kernel.gives_codes or adder is not None
    return Unit(node, (node.inputs[0].name,), (output.name,), tail, is_layer=True, always=always)


def stands_apart(node: gs.Node, adder: gs.Node) -> bool:
    """True where the sum behind a matrix product can be kept out of its kernel, which then gives float.

    The runtime makes a Gemm of a MatMul and a sum, which has no integer kernel that takes a float bias and gives float:
    always of two dimensions, of more where their sizes are known. It does not where the bias has more dimensions than
    one (see `stand_biases_apart`), as it may have beside a product that has them.
    """
    return (known_rank(node.outputs[0]) or 0) > 2 and any(map(is_constant, adder.inputs))


def _moving_unit(node: gs.Node, readers: Readers) -> Unit:
    """Clamping commutes with moving, so values that nobody else reads may be clamped before they are moved."""
    source = node.inputs[0]
    may_clamp = len(node.outputs) == 1 and _is_private(source, node, readers)
    tail = tuple(clamps_behind(node, readers)) if may_clamp else ()
    outputs = tuple(t.name for t in (tail[-1].outputs if tail else values_of(node)))
    return Unit(node, (source.name,), outputs, tail, joined=(source.name,), lead=bool(tail))


def _rescaling_unit(node: gs.Node, readers: Readers) -> Unit:
    """What only a Concat reads ends on the Concat's scale: put on it at once, it is rounded once and then copied.

    But not what a clamp makes: its kernel clamps by saturating, hence on no wider scale than the clamp's own.
    """
    tail = tuple(clamps_behind(node, readers))
    output = (node, *tail)[-1].outputs[0]
    low, high = bounds(output)
    private = [
        t.name
        for t in node.inputs
        if node.op == "Concat"
        and _is_private(t, node, readers)
        and bounds(t)[0] <= low
        and high <= bounds(t)[1]
    ]
    return Unit(
        node,
        tuple(t.name for t in node.inputs),
        (output.name,),
        tail,
        always=_is_always(node, output, readers),
        joined=tuple(private),
        lead=True,
    )


def _is_always(node: gs.Node, output: gs.Tensor, readers: Readers) -> bool:
    """True for what reduces, but for a graph output, the square of one tensor, and a sum or product that is normalized."""
    if node.op not in _REDUCING or readers.is_output(output):
        return False
    if node.op not in _ELEMENTWISE:
        return True
    return node.inputs[0] is not node.inputs[1] and not is_normalized(output, readers)


def _is_private(tensor: gs.Tensor, reader: gs.Node, readers: Readers) -> bool:
    """True where nobody but `reader` depends on the scale of `tensor`, back to where its values are made."""
    if readers.only(tensor) is not reader:
        return False
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op not in MOVING:
        return True
    return len(maker.outputs) == 1 and _is_private(maker.inputs[0], maker, readers)
