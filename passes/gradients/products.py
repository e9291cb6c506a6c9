"""Products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.einsum import Equation
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.gradients.step import Step
from onnxmpq.passes.matching import require


def matmul_left(step: Step) -> gs.Tensor:
    """g B^T of A B."""
    gradient, _, right = _as_matrices(step)
    product = step("MatMul", gradient, _turned(step.emit, right, step.emit.rank(step.input(1))))
    return _back(step, product, row=True)


def matmul_right(step: Step) -> gs.Tensor:
    """A^T g of A B; of a stack of A and one B, all rows at once."""
    e = step.emit
    gradient, left, _ = _as_matrices(step)
    rank = e.rank(step.x)
    if rank > 2 and e.rank(step.input(1)) == 2:
        inner, outer = e.sizes(step.input(1), [0, 1])
        rows = e("Reshape", left, e.ints([-1, inner]))
        return e("MatMul", e.transposed(rows, [1, 0]), e("Reshape", gradient, e.ints([-1, outer])))
    return _back(step, e("MatMul", _turned(e, left, rank), gradient), row=False)


def _as_matrices(step: Step) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
    """(g, A, B) with the axes added that MatMul adds to a vector and takes off its result."""
    e, gradient, left, right = step.emit, step.g, step.x, step.input(1)
    if e.rank(right) == 1:
        gradient, right = e("Unsqueeze", gradient, e.ints([-1])), e("Unsqueeze", right, e.ints([1]))
    if e.rank(left) == 1:
        gradient, left = e("Unsqueeze", gradient, e.ints([-2])), e("Unsqueeze", left, e.ints([0]))
    return gradient, left, right


def _turned(e: Emitter, tensor: gs.Tensor, rank: int) -> gs.Tensor:
    """The last two axes exchanged."""
    rank = max(rank, 2)
    return e.transposed(tensor, [*range(rank - 2), rank - 1, rank - 2])


def _back(step: Step, product: gs.Tensor, *, row: bool) -> gs.Tensor:
    """The product summed over the stacks that the asked operand was repeated for, in its shape."""
    e, asked = step.emit, step.asked
    shape, other = e.shape(asked), e.shape(step.input(1 - step.index))
    vector = len(shape) == 1
    lead, whole = len(shape) - 2 + vector, max(len(shape), len(other), 2) - 2
    stacks = [
        i for i in range(whole)
        if i < whole - lead or (shape[i - whole + lead] == 1 and _size(other, i - whole - 2) != 1)
    ]  # fmt: skip
    summed = e.sum(product, stacks)
    if vector:
        return e("Squeeze", summed, e.ints([*range(whole), whole + (0 if row else 1)]))
    return e("Squeeze", summed, e.ints(list(range(whole - lead)))) if whole > lead else summed


def _size(shape: tuple[int | None, ...], axis: int) -> int | None:
    return shape[axis] if -axis <= len(shape) else 1


def gemm_left(step: Step) -> gs.Tensor:
    """alpha g B^T of alpha A B + beta C, A and B turned or not."""
    right, scale, flip = step.input(1), step.attribute("alpha", 1.0), step.attribute("transB", 0)
    if step.attribute("transA", 0):
        return step("Gemm", right, step.g, alpha=scale, transA=flip, transB=1)
    return step("Gemm", step.g, right, alpha=scale, transB=1 - flip)


def gemm_right(step: Step) -> gs.Tensor:
    """alpha A^T g."""
    scale, flip = step.attribute("alpha", 1.0), step.attribute("transA", 0)
    if step.attribute("transB", 0):
        return step("Gemm", step.g, step.x, alpha=scale, transA=1, transB=flip)
    return step("Gemm", step.x, step.g, alpha=scale, transA=1 - flip)


def gemm_bias(step: Step) -> gs.Tensor:
    """beta g, summed over the rows that C was repeated for."""
    scale = step.attribute("beta", 1.0)
    return step.to_asked(step.g if scale == 1.0 else step("Mul", step.g, scale))


def einsum(step: Step) -> gs.Tensor:
    """g and the other operands, summed over the axes that the asked one does not have (Einsum-12)."""
    e, equation = step.emit, Equation.of(step.node)
    terms, mine = [equation.result, *equation.operands], equation.operands[step.index]
    distinct = all(len(set(term)) == len(term) for term in terms)
    require(distinct and "." not in "".join(terms), "its equation takes diagonals, or has an ellipsis")
    require(set(mine) <= {*equation.others(step.index), *equation.result}, "it sums one operand alone")
    known = [e.known(tensor) or () for tensor in step.node.inputs]
    sizes = {
        pair for term, shape in zip(terms[1:], known, strict=True) for pair in zip(term, shape, strict=False)
    }
    ones, more = {c for c, size in sizes if size == 1}, {c for c, size in sizes if size not in {1, None}}
    require(not ones & more, "it repeats an axis of one")
    places = [i for i in range(len(step.node.inputs)) if i != step.index]
    others = [equation.result, *(equation.operands[i] for i in places)]
    given = [step.input(i) for i in places]
    return e("Einsum", step.g, *given, equation=f"{','.join(others)}->{mine}")


def along(e: Emitter, tensor: gs.Tensor, rank: int, axis: int, matrix: NDArray[Any]) -> gs.Tensor:
    """A tensor of `rank` axes times a matrix [size, new size] along one of them."""
    constant = e.constant(matrix.astype(np.dtype(tensor.dtype)))
    if axis == rank - 1:
        return e("MatMul", tensor, constant)
    last = [*(i for i in range(rank) if i != axis), axis]
    product = e("MatMul", e.transposed(tensor, last), constant)
    return e.transposed(product, np.argsort(last).tolist())
