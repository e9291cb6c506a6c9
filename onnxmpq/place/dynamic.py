"""Inputs of matrix products, quantized by the range that each run has: no calibration, and float goes in and comes out.

ONNX Runtime's CPU provider (1.31) makes DynamicQuantizeMatMul, or QGemm without a bias, of DynamicQuantizeLinear,
DequantizeLinear and such a product. Pure analysis.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxmpq.place.refusals import dynamic_kernel, float_layers
from onnxmpq.values.layer import Layer
from onnxmpq.values.placement import Placement

NO_DYNAMIC = "only products by a matrix find the range of their input when they run"


def place_dynamic(graph: gs.Graph, layers: Sequence[Layer], integer: Collection[str]) -> Placement:
    """Quantize what the matrices named in `integer` read, for them alone. `graph` is normalised and topologically sorted."""
    left = float_layers(graph, layers, integer)
    free = {layer.weight: layer.name for layer in layers if layer.name not in left}
    found = [(node, dynamic_kernel(node, free)) for node in graph.nodes]
    products = [(node, kernel) for node, kernel in found if kernel is not None]
    named = {free[node.inputs[1].name] for node, _ in products}
    readers: dict[str, set[str]] = {}
    for node, _ in products:
        readers.setdefault(node.inputs[0].name, set()).add(node.outputs[0].name)
    return Placement(
        tensors=(),
        same_scale=(),
        float_sources={},
        split_biases=frozenset(n.inputs[1].name for n, kernel in products if kernel.leaves_bias(n, False)),
        float_ops={},
        integer_layers=tuple(layer.name for layer in layers if layer.name in named),
        float_layers=left | {name: NO_DYNAMIC for name in free.values() if name not in named},
        dynamic={name: frozenset(some) for name, some in readers.items()},
    )


def joined(static: Placement, dynamic: Placement) -> Placement:
    """Both in one: layers of either compute in integers, a tensor that has a scale of its own keeps it for others."""
    integer = (*static.integer_layers, *dynamic.integer_layers)
    reasons = {**dynamic.float_layers, **static.float_layers}
    return replace(
        static,
        split_biases=static.split_biases | dynamic.split_biases,
        integer_layers=integer,
        float_layers={name: why for name, why in reasons.items() if name not in integer},
        dynamic=dynamic.dynamic,
    )
