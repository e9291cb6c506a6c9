"""Einsum (12): products summed over named axes, one of two operands being the weight.

Where every axis of the weight is either summed over with the other operand or kept for the result alone, and the
other operand's own axes are all kept, it is a MatMul in disguise: "bsd,dhk->bshk". Any other form ("ij,ij->ij", an
ellipsis, three operands, an axis of one that is repeated) is rounded without data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import Operator, Shapes
from onnxmpq.operators.windows import as_float, reshaped
from onnxmpq.passes.einsum import Equation, axes
from onnxmpq.passes.emitter import Emitter
from onnxmpq.values.layer import Layout


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
    equation = Equation.of(node)
    operands = equation.operands
    return _Terms(operands[place], equation.others(place), equation.result, len(operands))


def _is_whole(node: gs.Node, place: int, terms: _Terms) -> bool:
    """False where an operand's axis of one is repeated to be summed over with the other's."""
    weight, data = node.inputs[place], node.inputs[1 - place]
    given = dict(zip(terms.data, data.shape or (), strict=False))
    pairs = [(weight.shape[axis], given.get(terms.weight[axis])) for axis in terms.summed]
    return all(mine == size or not isinstance(size, int) for mine, size in pairs)


def _layout(node: gs.Node, place: int) -> Layout:
    terms = _terms(node, place)
    rank = len(node.inputs[place].shape)
    if not terms.is_product or len(terms.weight) != rank or not _is_whole(node, place, terms):
        return Layout(
            rank - 1, (rank - 1,), tuple(range(rank - 1)), blind="an Einsum that is no matrix product"
        )
    *others, axis = terms.kept
    return Layout(axis, (axis, *others), tuple(terms.summed))


def _macs(node: gs.Node, place: int, shapes: Shapes) -> int:
    """One for each value of every axis: those of a plain loop."""
    known = [shapes.get(t.name, t.shape if i == place else None) for i, t in enumerate(node.inputs)]
    sizes: dict[str, int] = {}
    for term, shape in zip(Equation.of(node).operands, known, strict=True):
        if shape is None:
            return 0
        for axis, size in zip(axes(term, len(shape)), shape, strict=True):
            sizes[axis] = max(sizes.get(axis, 1), int(size))
    return math.prod(sizes.values())


def _windows(e: Emitter, node: gs.Node, place: int, _step: int) -> list[gs.Tensor]:
    terms = _terms(node, place)
    summed = "".join(terms.weight[axis] for axis in terms.summed)
    order = [terms.data.index(c) for c in summed + terms.rest]
    turned = e("Transpose", as_float(e, node.inputs[1 - place]), perm=order)
    features = math.prod(int(node.inputs[place].shape[axis]) for axis in terms.summed)
    return [reshaped(e, turned, features, -1)]


def _targets(e: Emitter, node: gs.Node, place: int, target: gs.Tensor, _step: int) -> gs.Variable:
    terms, rows = _terms(node, place), _layout(node, place).rows
    letters = "".join(terms.weight[axis] for axis in rows) + terms.rest
    order = [terms.result.index(c) for c in letters]
    turned = e("Transpose", as_float(e, target), perm=order)
    return reshaped(e, turned, 1, math.prod(int(node.inputs[place].shape[axis]) for axis in rows), -1)


EINSUM = Operator(
    name="Einsum",
    weights=(1, 0),
    layout=_layout,
    macs=_macs,
    windows=_windows,
    targets=_targets,
    profiled=frozenset({"Einsum"}),
)
