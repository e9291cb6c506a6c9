"""HardSigmoid and hard swish that exporters wrote out in Add, Clip and Div, as one HardSigmoid again."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    absorb_into,
    holds,
    optional_input,
    producer,
    read,
    remove,
    require,
    require_private,
    rewrites,
    scalar_factor,
    scalar_operand,
)


@rewrites({"Clip"})
def join_hard_sigmoid(graph: gs.Graph, clip: gs.Node) -> None:
    """Clip(x + c, 0, h) / h becomes HardSigmoid(x; 1 / h, c / h), and x Clip(x + c, 0, h) / h its product with x.

    As PaddlePaddle and older PyTorch (relu6) export HardSigmoid-1 and HardSwish-14: one or two kernels in place of
    three or four. The factor may be a Mul too, and follow the Clip or the product with another tensor. Of single
    precision, as ONNX Runtime's HardSigmoid is. Preserving: equal but for rounding.
    """
    high = _upper_end(clip)
    add = producer(clip.inputs[0])
    require(add.op == "Add", f"{clip.inputs[0].name} is made by {add.op}, wanted an Add")
    require_private(graph, clip.inputs[0])
    place, shift = scalar_operand(add)
    scale = _scale_behind(graph, clip)
    require(
        math.isclose(scalar_factor(scale)[1] * high, 1.0, rel_tol=1e-6), "what follows makes no share of it"
    )
    source, scaled = add.inputs[1 - place], scale.inputs[1 - scalar_factor(scale)[0]]
    clip.op, clip.attrs = "HardSigmoid", {"alpha": 1 / high, "beta": shift / high}
    clip.inputs = [source]
    remove(graph, [add])
    absorb_into(graph, producer(scaled), scale)


def _upper_end(clip: gs.Node) -> float:
    """The h of a Clip(0, h) in single precision."""
    low, high = read(optional_input(clip, 1)), read(optional_input(clip, 2))
    require(high.dtype == np.float32, f"it clips {high.dtype}")
    require(low.item() == 0 < high.item(), "it does not clip at zero and above")
    return float(high.item())


def _scale_behind(graph: gs.Graph, clip: gs.Node) -> gs.Node:
    """The multiplication by a scalar behind a Clip, or behind the one product that it goes into."""
    require_private(graph, clip.outputs[0])
    reader = clip.outputs[0].outputs[0]
    require(holds(graph, reader), f"{clip.outputs[0].name} is read by a subgraph")
    is_product = reader.op == "Mul" and not any(isinstance(t, gs.Constant) for t in reader.inputs)
    if not is_product:
        return reader
    require_private(graph, reader.outputs[0])
    return reader.outputs[0].outputs[0]
