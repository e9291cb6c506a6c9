"""Nodes over constants alone: what they compute, and which of them their results leave without a reader."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.passes.matching import FLOATS, NoMatch, attribute, is_constant, is_standard
from onnxmpq.values.arrays import Array

# Operators that keep the elements and their number.
VIEWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})
STORED_BYTES = 1  # per element: what a weight takes once it has codes
SHARED_VALUES = 256  # of so many values on, equal weights are one; fewer may be equal by chance
_DEQUANTIZE = 19  # opset
_FLOAT_TYPES = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)


def is_view(node: gs.Node) -> bool:
    """True for a node that rearranges the elements of its first input, or casts them from a float type to another."""
    if node.op not in VIEWS or not is_standard(node):
        return False
    is_float = node.inputs[0].dtype in FLOATS and attribute(node, "to", TensorProto.FLOAT) in _FLOAT_TYPES
    return node.op != "Cast" or is_float


def behind_views(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is a view of: the nearest that is no view's output, the tensor itself maybe."""
    while len(tensor.inputs) == 1 and is_view(tensor.inputs[0]):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def nodes_as_model(nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor], opset: int) -> onnx.ModelProto:
    """Nodes, which constants alone feed, as a model that computes `outputs`; its nodes are in the same order."""
    part = gs.Graph(nodes=list(nodes), outputs=list(outputs), opset=opset)
    model: onnx.ModelProto = gs.export_onnx(part, do_type_check=False)
    return model


def evaluated(model: onnx.ModelProto) -> list[Array]:
    """The outputs of a model without inputs. Raises NoMatch where onnx's evaluator cannot run it."""
    from onnx.reference import ReferenceEvaluator  # slow to import, and few models need it

    older = [_older_dequantize_linear()] if model.opset_import[0].version < _DEQUANTIZE else []
    try:
        with np.errstate(all="ignore"):
            outputs = ReferenceEvaluator(model, new_ops=older).run(None, {})
    except Exception as error:  # whatever an operator's code there raises
        raise NoMatch(f"computed by what cannot be evaluated ({type(error).__name__}: {error})") from error
    found = [np.ascontiguousarray(values).reshape(np.shape(values)) for values in outputs]
    if any(values.dtype == np.float16 and not np.isfinite(values).all() for values in found):
        raise NoMatch("computed in half precision, in which NumPy's sums run over")
    return found


def _older_dequantize_linear() -> type:
    """DequantizeLinear (10, 13), which onnx's evaluator lacks."""
    from onnx.reference.op_run import OpRun

    class DequantizeLinear(OpRun):
        def _run(
            self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1, **_newer: Any
        ) -> tuple[Array]:
            shape = [-1 if scale.ndim and i == axis % x.ndim else 1 for i in range(x.ndim)]
            codes = x.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(shape))
            return ((codes * scale.reshape(shape)).astype(np.float32),)

    return DequantizeLinear


def needless(nodes: Sequence[gs.Node], replaced: Collection[int], graph: gs.Graph) -> list[gs.Node]:
    """Those of the nodes, in order, that nothing needs once the tensors of the ids `replaced` are constants; last first."""
    found: dict[int, gs.Node] = {}
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in reversed(nodes):
        left = [tensor for tensor in node.outputs if id(tensor) not in replaced]
        is_read = any(id(r) not in found for tensor in left for r in tensor.outputs)
        if not is_read and not any(id(tensor) in outputs for tensor in left):
            found[id(node)] = node
    return list(found.values())


def bytes_without(parts: Sequence[tuple[onnx.ModelProto, Sequence[gs.Node]]], gone: Sequence[gs.Node]) -> int:
    """What leaves the file with the nodes `gone`: they, and the constants that only they read.

    `parts` are the graphs that they lie in, as `nodes_as_model`, and all nodes of each.
    """
    ids = {id(node) for node in gone}
    left: dict[int, onnx.NodeProto | onnx.TensorProto] = {}
    for model, nodes in parts:
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for proto, node in zip(model.graph.node, nodes, strict=True):
            if id(node) in ids:
                left[id(node)] = proto
                left |= {id(t): stored[t.name] for t in node.inputs if _is_read_by(t, ids)}
    return sum(proto.ByteSize() for proto in left.values())


def _is_read_by(tensor: gs.Tensor, nodes: Collection[int]) -> bool:
    """True for a constant that none but the nodes of these ids read."""
    return is_constant(tensor) and all(id(reader) in nodes for reader in tensor.outputs)
