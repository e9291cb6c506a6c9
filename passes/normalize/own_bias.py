"""Each layer's bias becomes a vector of its own: rounding can then move it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import (
    NoMatch,
    attribute,
    is_float_constant,
    is_private,
    optional_input,
    own_name,
    read,
    require,
    rewrite_each,
    scaled,
)
from onnxmpq.passes.normalize.channel_affine import channel_bias


def own_bias(graph: gs.Graph) -> bool:
    """Make each constant bias that rounding may move a vector [channels] that nothing else reads, a Gemm's beta in it.

    A Gemm's may be a scalar or [1, channels], and exporters let layers share equal ones, which are copied then: a float
    a channel. Layers whose weight is no constant of their own stay. Preserving: equal but for beta's rounding.
    """
    movable = [op.name for op in OPERATORS.values() if op.bias is not None and op.bias.moves]
    return rewrite_each(graph, movable, _own)


def _own(graph: gs.Graph, node: gs.Node) -> None:
    old = read(optional_input(node, 2))
    weight, bias, beta = node.inputs[1], node.inputs[2], attribute(node, "beta", 1.0)
    require(
        is_float_constant(weight) and is_private(graph, weight), f"{weight.name} is no constant of its own"
    )
    result = OPERATORS[node.op].result
    if result is None:
        raise NoMatch("the layout of its result is not known")
    rank, axis, channels = result(node)
    is_own = old.shape == (channels,) and is_private(graph, bias)
    require(not is_own or beta != 1, "its bias is its own")
    values = scaled(channel_bias(bias, node.op, rank, axis, channels).astype(old.dtype), beta)
    node.inputs[2] = gs.Constant(own_name(graph, bias), values)
    node.attrs.pop("beta", None)
