"""Gemm (7, 9, 11, 13): alpha A B + beta C, A or B being the weight, either transposed or not."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import BiasSlot, IntegerKernel, Operator
from onnxmpq.operators.windows import product_macs, rows_of
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import attribute, is_constant, optional_input
from onnxmpq.values.layer import Layout, matrix


def _layout(node: gs.Node, place: int) -> Layout:
    if place == 0:
        return matrix(1 if attribute(node, "transA", 0) else 0, blind="weights on the left")
    blind = "inputs that are transposed" if attribute(node, "transA", 0) else None
    return matrix(0 if attribute(node, "transB", 0) else 1, blind=blind)


def _windows(e: Emitter, node: gs.Node, _place: int, _step: int) -> list[gs.Tensor]:
    features = int(node.inputs[1].shape[1 - _layout(node, 1).axis])
    return [rows_of(e, node.inputs[0], features)]


def _targets(e: Emitter, node: gs.Node, _place: int, target: gs.Tensor, _step: int) -> gs.Variable:
    return rows_of(e, target, int(node.inputs[1].shape[_layout(node, 1).axis]))


def _refusal(node: gs.Node) -> str | None:
    if isinstance(node.inputs[0], gs.Constant):
        return "its weight is the left operand; the integer kernel takes it on the right"
    return None


def _leaves_bias(node: gs.Node, quantized: bool) -> bool:
    """The runtime quantizes a bias itself where the output is quantized, beta is 1 and the bias a constant vector."""
    bias = optional_input(node, 2)
    is_plain = bias is not None and is_constant(bias) and len(bias.shape) == 1
    return bias is not None and not (quantized and is_plain and attribute(node, "beta", 1.0) == 1.0)


GEMM = Operator(
    name="Gemm",
    weights=(1, 0),
    layout=_layout,
    macs=lambda node, place, shapes: product_macs(node, place, shapes, _layout(node, place).axis),
    result=lambda node: (2, 1, node.inputs[1].shape[_layout(node, 1).axis]),
    bias=BiasSlot(2, is_vector=False),
    windows=_windows,
    targets=_targets,
    integer=IntegerKernel(refusal=_refusal, leaves_bias=_leaves_bias, wants_zero_points=True, dynamic=True),
    profiled=frozenset({"FusedGemm", "Gemm", "QGemm"}),
)
