"""Nodes that compute nothing are taken out."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from onnxmpq.passes.matching import (
    attribute,
    is_captured,
    is_constant,
    optional_input,
    position,
    read,
    redirect,
    remove,
    require,
    rewrites,
    scalar_operand,
)


def _check_dropout(node: gs.Node) -> None:
    training = optional_input(node, 2)
    require(training is None or not read(training).any(), "it is in training mode")


def _check_transpose(node: gs.Node) -> None:
    perm = attribute(node, "perm", [1, 0])  # the default reverses
    require(list(perm) == list(range(len(perm))), f"it permutes: {list(perm)}")


def _check_reshape(node: gs.Node) -> None:
    shape = node.inputs[0].shape
    require(shape is not None, f"the shape of {node.inputs[0].name} is not known")
    target = read(optional_input(node, 1)).tolist()
    copied = 0 if attribute(node, "allowzero", 0) == 0 else None
    kept = [wanted in {copied, size} for wanted, size in zip(target, shape, strict=False)]
    # One -1 stands for the one dimension that is left.
    is_same = len(target) == len(shape) and kept.count(False) == (-1 in target)
    require(is_same, f"it makes {target} of {list(shape)}")


def _check_cast(node: gs.Node) -> None:
    dtype = node.inputs[0].dtype
    require(dtype is not None, f"the dtype of {node.inputs[0].name} is not known")
    wanted = node.attrs["to"]
    known = dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    require(wanted == known, f"it casts {dtype} to {helper.tensor_dtype_to_string(wanted)}")


def _check_neutral(node: gs.Node) -> None:
    place, value = scalar_operand(node)
    require(place == 1 or node.op in {"Add", "Mul"}, "it takes from a constant, or divides one")
    neutral = 1.0 if node.op in {"Mul", "Div"} else 0.0
    require(value == neutral, f"{node.op} by {value:g} changes what it is given")


_CHECKS = {
    "Add": _check_neutral,
    "Div": _check_neutral,
    "Mul": _check_neutral,
    "Sub": _check_neutral,
    "Identity": lambda _: None,  # it never computes anything
    "Dropout": _check_dropout,
    "Transpose": _check_transpose,
    "Reshape": _check_reshape,
    "Cast": _check_cast,
}


@rewrites(_CHECKS)
def drop_noops(graph: gs.Graph, node: gs.Node) -> None:
    """Take out Identity, Dropout at inference, and Transpose, Reshape, Cast, sums and products that provably change nothing.

    A Transpose whose `perm` is the identity, a Reshape to the shape its input is known to have, a Cast to
    the dtype its input is known to have, a sum with the scalar 0, a product with 1. Where the node makes a graph output, the producer of its input
    makes that output instead. A tensor that a subgraph reads by name keeps its name. Preserving: the outputs
    are bit-equal.
    """
    _CHECKS[node.op](node)
    for extra in node.outputs[1:]:
        require(not extra.outputs and extra not in graph.outputs, f"its output {extra.name} is used")
    is_second = node.op in {"Add", "Mul"} and is_constant(node.inputs[0])
    source, result = node.inputs[1 if is_second else 0], node.outputs[0]
    if result not in graph.outputs:
        require(not is_captured(graph, result), f"{result.name} is read by a subgraph")
        redirect(result.outputs, result, source)
        remove(graph, [node])
        return
    is_free = source not in graph.inputs and source not in graph.outputs
    require(is_free, f"{result.name} and {source.name} are both inputs or outputs of the graph")
    require(not is_captured(graph, source), f"{source.name} is read by a subgraph")
    require(len(source.inputs) == 1, f"{source.name} is constant")
    maker = source.inputs[0]
    index = position(maker.outputs, source)
    remove(graph, [node])
    redirect(source.outputs, source, result)
    maker.outputs[index] = result
