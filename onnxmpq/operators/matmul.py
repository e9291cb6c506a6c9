"""MatMul (1, 9, 13): a product of matrices or of stacks of them, one operand being the weight."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import IntegerKernel, Operator
from onnxmpq.operators.windows import product_macs, rows_of
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import known_rank, require
from onnxmpq.values.layer import Layout, matrix


def _layout(node: gs.Node, place: int) -> Layout:
    rank = len(node.inputs[place].shape)
    if rank == 2 and place == 1:
        return matrix(1)
    axis = max(rank - 2 if place == 0 else rank - 1, 0)
    return Layout(
        axis, (axis,), tuple(i for i in range(rank) if i != axis), blind="weights on the left or in a stack"
    )


def _result(node: gs.Node) -> tuple[int, int, int]:
    """Of a product whose rank is not known only the last axis counts."""
    weight = node.inputs[1]
    require(len(weight.shape) >= 2, f"the weight {weight.name} is a vector: it has no output channels")
    known = known_rank(node.outputs[0]) or 1
    return known, known - 1, weight.shape[-1]


def _windows(e: Emitter, node: gs.Node, _place: int, _step: int) -> list[gs.Tensor]:
    return [rows_of(e, node.inputs[0], int(node.inputs[1].shape[0]))]


def _targets(e: Emitter, node: gs.Node, _place: int, target: gs.Tensor, _step: int) -> gs.Variable:
    return rows_of(e, target, int(node.inputs[1].shape[1]))


def _refusal(node: gs.Node) -> str | None:
    if isinstance(node.inputs[0], gs.Constant):
        return "its weight is the left operand; the integer kernel takes scales per column of the right one"
    if len(node.inputs[1].shape) != 2:
        return "its weight is a stack of matrices; the integer kernel takes one"
    return None


MATMUL = Operator(
    name="MatMul",
    weights=(1, 0),
    layout=_layout,
    macs=lambda node, place, shapes: product_macs(node, place, shapes, _layout(node, place).axis),
    result=_result,
    windows=_windows,
    targets=_targets,
    integer=IntegerKernel(refusal=_refusal, takes_in_sum=True, wants_zero_points=True, dynamic=True),
    profiled=frozenset(
        {
            "DynamicQuantizeMatMul",
            "FusedMatMul",
            "MatMul",
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "QLinearMatMul",
        }
    ),
)
