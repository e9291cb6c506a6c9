"""HardSwish as the product that runtimes make of it, whose factors have integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import position, require, rewrites
from onnxmpq.passes.node_builder import builders


@rewrites({"HardSwish"})
def write_out_hard_swish(graph: gs.Graph, node: gs.Node) -> None:
    """HardSwish-14(x) becomes x HardSigmoid(x; 1/6, 1/2), which is its definition.

    ONNX Runtime's CPU provider does so itself when it loads a file (1.31). Of single precision, as its HardSigmoid is.
    Preserving: bit-equal there.
    """
    source = node.inputs[0]
    require(source.dtype in {None, np.dtype(np.float32)}, f"{source.name} is of {source.dtype}")
    gate = gs.Variable(builders(graph)[0].name(f"{node.outputs[0].name}_gate"), source.dtype, source.shape)
    factor = gs.Node("HardSigmoid", attrs={"alpha": 1 / 6, "beta": 0.5}, inputs=[source], outputs=[gate])
    graph.nodes.insert(position(graph.nodes, node), factor)
    node.op = "Mul"
    node.inputs.append(gate)
