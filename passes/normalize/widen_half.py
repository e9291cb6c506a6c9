"""Compute in single precision what a float16 graph computes in half: the CPU has no half-precision convolutions."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.passes.matching import graphs, is_constant, is_standard, position, read, redirect
from onnxmpq.passes.node_builder import NodeBuilder, builders

_HALF, _SINGLE = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)
# The attributes of standard operators that name an output's type.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "precision")


def widen_half(graph: gs.Graph) -> bool:
    """Turn float16 constants, variables and type attributes to float32; preserving, up to half's rounding.

    Graph inputs and outputs stay float16, behind a Cast each. Subgraphs are widened too.
    """
    build = builders(graph)[0]
    boundary = {id(tensor): tensor for tensor in (*graph.inputs, *graph.outputs)}
    edits = [_cast_at(build, tensor) for tensor in boundary.values() if _is_half(tensor)]
    for inner in graphs(graph):
        edits += [_widen_tensor(t) for t in inner.tensors().values() if id(t) not in boundary]
        edits += [
            _widen_node(n) for n in inner.nodes if not (n.op == "Cast" and id(n.outputs[0]) in boundary)
        ]
    if any(edits):
        graph.toposort()
    return any(edits)


def _is_half(tensor: gs.Tensor) -> bool:
    return bool(tensor.dtype == np.float16)


def _cast_at(build: NodeBuilder, tensor: gs.Tensor) -> bool:
    """Make all other nodes work on a single-precision copy of a graph input or output; False if they do."""
    if tensor.inputs:
        return _cast_output(build, tensor)
    readers = [node for node in tensor.outputs if node.op != "Cast"]
    if readers:
        single = build.node("Cast", [tensor], f"{tensor.name}_single", {"to": _SINGLE})
        redirect(readers, tensor, single)
    return bool(readers)


def _cast_output(build: NodeBuilder, tensor: gs.Variable) -> bool:
    node = tensor.inputs[0]
    if node.op == "Cast" and not tensor.outputs:
        return False
    single = gs.Variable(build.name(f"{tensor.name}_single"), np.float32, tensor.shape)
    node.outputs[position(node.outputs, tensor)] = single
    redirect(tensor.outputs, tensor, single)
    build.into(tensor, "Cast", [single], {"to": _HALF})
    return True


def _widen_tensor(tensor: gs.Tensor) -> bool:
    if not _is_half(tensor):
        return False
    if is_constant(tensor):
        tensor.values = read(tensor).astype(np.float32)
    else:
        tensor.dtype = np.float32
    return True


def _widen_node(node: gs.Node) -> bool:
    """Widen the types and tensors that a standard node's attributes hold."""
    if not is_standard(node):
        return False
    types = [name for name in _TYPE_ATTRIBUTES if node.attrs.get(name) == _HALF]
    for name in types:
        node.attrs[name] = _SINGLE
    tensors = [value for value in node.attrs.values() if isinstance(value, gs.Constant)]
    return any([bool(types), *(_widen_tensor(tensor) for tensor in tensors)])
