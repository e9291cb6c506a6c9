"""What ONNX Runtime runs wrong with channels last stays with channels first."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.layout import loses_layout
from onnxmpq.passes.node_builder import NodeBuilder, builders


def pin_layout(graph: gs.Graph) -> bool:
    """Put a Reshape that changes nothing before every node that loses its meaning in another layout; lowering.

    ONNX Runtime runs integer convolutions with channels last and moves the Transposes this takes through the operators
    between them (onnx_transpose_optimization.cc, 1.15 to 1.31), but never through such a Reshape.
    """
    build = builders(graph)[0]
    moved = [node for node in graph.nodes if loses_layout(node) and not _is_pinned(node.inputs[0])]
    for node in moved:
        node.inputs[0] = _pinned(build, node.inputs[0])
    if moved:
        graph.toposort()
    return bool(moved)


def _is_pinned(tensor: gs.Tensor) -> bool:
    return any(maker.op == "Reshape" for maker in tensor.inputs)


def _pinned(build: NodeBuilder, tensor: gs.Tensor) -> gs.Variable:
    if tensor.shape is None:
        same = build.node("Shape", [tensor], f"{tensor.name}_shape")
    else:
        same = build.constant(f"{tensor.name}_shape", np.zeros(len(tensor.shape), np.int64))  # 0: as it is
    return build.node("Reshape", [tensor, same], f"{tensor.name}_pinned")
