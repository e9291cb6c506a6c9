"""What is known of an operator that multiplies by a weight: one value, which all stages ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.emitter import Emitter
from onnxmpq.values.layer import Layout

Shapes = Mapping[str, Sequence[int]]  # of tensors, as traced in a run
Use = Literal["product", "lookup", "sum", "recurrence"]


@dataclass(frozen=True, slots=True)
class BiasSlot:
    """The input that a bias is given at.

    `is_vector`: it has one value a channel, whatever the rank of the result; else it broadcasts against the result.
    `moves`: what rounding does to the mean of the output may go into it.
    """

    place: int
    is_vector: bool = True
    moves: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerKernel:
    """How ONNX Runtime's CPU provider runs a node in integers, its data at input 0 and its weight at input 1.

    `refusal` says in words why a node has no such kernel, None where it has. `gives_codes`: its output must be quantized
    as well. `takes_in_sum`: a vector that is added behind becomes part of the kernel, whose output must be quantized
    then. `leaves_bias` tells whether a kernel is found only without the node's bias, given whether its output is
    quantized. `wants_zero_points`: it is found only where the weight's zero points are written out. `dynamic`: the range of
    its input may be found when it runs.
    """

    refusal: Callable[[gs.Node], str | None] = lambda _node: None
    gives_codes: bool = False
    takes_in_sum: bool = False
    leaves_bias: Callable[[gs.Node, bool], bool] = lambda _node, _quantized: False
    wants_zero_points: bool = False
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the ONNX domain whose constant operand is a layer's weight.

    `weights` are the inputs that may be that operand, the likelier first, as far as the operator `takes` the tensor there
    for a weight. `parts` names them where each is a layer of its own: the matrices of an LSTM. `use` is what becomes of
    a weight:

        product      output values are sums of its products with the other operand
        lookup       output values are its own, picked by the other operand; it may be laid out in any way
        sum          output values are those of the other operand and its own
        recurrence   output values are no linear function of it

    For a weight at an input:

        layout      how it is laid out as rows x columns
        macs        multiply-accumulates of one run, given the shapes of that run (0: not known)
        positions   the sizes of the map that it is applied over, () where there is none
        result      rank, channel axis and number of channels of the output (None: nothing is folded into the weight)

    `windows` (emitter, node, place of the weight, step) writes the nodes that give the vectors which a row is multiplied
    with: a tensor [group * channels, N, *positions] for each tap of a channel, of every `step`-th position; `targets`
    (emitter, node, place, target, step) those that bring a tensor of the output's shape into their order,
    [group, rows, N]. Without `windows` a weight is rounded without data, without `targets` it is not rounded again behind quantized layers. `patches` gives all taps at
    once, [N, columns, positions]: gradients of the weight for single samples are then one product.

    `integer` is its integer kernel (None: there is none), `profiled` are the names that the runtime's profile has for
    the kernels that compute it.
    """

    name: str
    weights: tuple[int, ...]
    parts: tuple[str, ...] = ()
    use: Use = "product"
    takes: Callable[[gs.Tensor], bool] = lambda _tensor: True
    layout: Callable[[gs.Node, int], Layout]
    macs: Callable[[gs.Node, int, Shapes], int]
    positions: Callable[[gs.Node, Shapes], tuple[int, ...]] = lambda _node, _shapes: ()
    result: Callable[[gs.Node], tuple[int, int, int]] | None = None
    bias: BiasSlot | None = None
    windows: Callable[[Emitter, gs.Node, int, int], list[gs.Tensor]] | None = None
    targets: Callable[[Emitter, gs.Node, int, gs.Tensor, int], gs.Variable] | None = None
    patches: Callable[[Emitter, gs.Node, np.dtype[Any]], gs.Tensor] | None = None
    integer: IntegerKernel | None = None
    profiled: frozenset[str] = frozenset()
