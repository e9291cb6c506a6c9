"""Einsum (12): products summed over named axes, one of two operands being the weight.

Where every axis of the weight is either summed over with the other operand or kept for the result alone, and the
other operand's own axes are all kept, it is a MatMul in disguise: "bsd,dhk->bshk". Any other form ("ij,ij->ij", an
ellipsis, three operands) is rounded without data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Operator, Shapes
from onnxmpq.operators.products import product_macs
from onnxmpq.operators.windows import as_float, reshaped
from onnxmpq.passes.node_builder import NodeBuilder
from onnxmpq.values.layout import Layout


@dataclass(frozen=True, slots=True)
class _Terms:
    """The axes, by letter, of the weight, of the other operands together, and of the result."""

    weight: str
    data: str
    result: str
    operands: int

    @property
    def kept(self) -> list[int]:
        """The weight's axes that only it brings to the result."""
        return [i for i, c in enumerate(self.weight) if c in self.result and c not in self.data]

    @property
    def summed(self) -> list[int]:
        """The weight's axes that are summed over with the data's."""
        return [i for i, c in enumerate(self.weight) if c in self.data and c not in self.result]

    @property
    def rest(self) -> str:
        """The data's axes that the weight does not see."""
        return "".join(c for c in self.data if c not in self.weight)

    @property
    def is_product(self) -> bool:
        """True for a MatMul in disguise."""
        apart = all(len(set(term)) == len(term) for term in (self.weight, self.data, self.result))
        whole = len(self.kept) + len(self.summed) == len(self.weight) and set(self.rest) <= set(self.result)
        named = "." not in self.weight + self.data + self.result
        return self.operands == 2 and apart and whole and named and bool(self.kept) and bool(self.summed)


def _terms(node: gs.Node, place: int) -> _Terms:
    equation = "".join(node.attrs["equation"].split())
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # the letters that occur once, in order (Einsum-12)
        letters = left.replace(",", "").replace(".", "")
        result = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    others = "".join(term for i, term in enumerate(terms) if i != place)
    return _Terms(terms[place], others, result, len(terms))


def _layout(node: gs.Node, place: int) -> Layout:
    terms = _terms(node, place)
    rank = len(node.inputs[place].shape)
    if not terms.is_product or len(terms.weight) != rank:
        return Layout(
            rank - 1, (rank - 1,), tuple(range(rank - 1)), blind="an Einsum that is no matrix product"
        )
    *others, axis = terms.kept
    return Layout(axis, (axis, *others), tuple(terms.summed))


def _macs(node: gs.Node, place: int, shapes: Shapes) -> int:
    terms, weight = _terms(node, place), node.inputs[place]
    named = zip(terms.weight, weight.shape, strict=False)  # an ellipsis stands for any number of axes
    return product_macs(node, weight, shapes, math.prod(int(n) for c, n in named if c in terms.result))


def _windows(builder: NodeBuilder, node: gs.Node, place: int, _step: int) -> list[gs.Tensor]:
    terms = _terms(node, place)
    summed = "".join(terms.weight[axis] for axis in terms.summed)
    order = [terms.data.index(c) for c in summed + terms.rest]
    turned = builder.node("Transpose", [as_float(builder, node.inputs[1 - place])], "gram", {"perm": order})
    features = math.prod(int(node.inputs[place].shape[axis]) for axis in terms.summed)
    return [reshaped(builder, turned, features, -1)]


def _targets(builder: NodeBuilder, node: gs.Node, place: int, target: gs.Tensor, _step: int) -> gs.Variable:
    terms, rows = _terms(node, place), _layout(node, place).rows
    letters = "".join(terms.weight[axis] for axis in rows) + terms.rest
    order = [terms.result.index(c) for c in letters]
    turned = builder.node("Transpose", [as_float(builder, target)], "gram", {"perm": order})
    return reshaped(builder, turned, 1, math.prod(int(node.inputs[place].shape[axis]) for axis in rows), -1)


EINSUM = Operator(
    name="Einsum",
    weights=(1, 0),
    layout=_layout,
    macs=_macs,
    windows=_windows,
    targets=_targets,
    profiled=frozenset({"Einsum"}),
)
