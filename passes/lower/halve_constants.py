"""Scales and biases that half precision holds exactly are stored in it: two bytes a channel for four.

All biases, and all scales of one trailing shape, become one FLOAT16 tensor, one Cast and one Split, with a Mul between
for scales, whose halves are in units of 2^-12. ONNX Runtime folds these before it looks for integer kernels, so that
what it runs is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from onnxmpq.operators import OPERATORS
from onnxmpq.passes.matching import is_standard, read, redirect
from onnxmpq.passes.node_builder import NodeBuilder, builders

_LOWEST_OPSET = 13  # from here on the sizes of Split are an input


def halve_constants(graph: gs.Graph) -> bool:
    """Store float32 constants as FLOAT16 where that is exact and they are nothing but scales and biases.

    A scale is what a DequantizeLinear or a Mul of a Cast reads, or what is looked up for one, a bias the third input of a Conv, ConvTranspose or Gemm, or
    what an Add adds to a Gemm's product.
    Preserving, bit for bit. A graph of an opset below 13 is left alone.
    """
    groups: dict[tuple[float, tuple[int, ...]], list[gs.Constant]] = {}
    for constant, unit in _halves(graph) if graph.opset >= _LOWEST_OPSET else ():
        groups.setdefault((unit, tuple(constant.shape[1:])), []).append(constant)
    if groups:
        known = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
        names = builders(graph)[0]
        for (unit, _), some in groups.items():
            _join(names, known, some, unit)
    return bool(groups)


def _halves(graph: gs.Graph) -> Iterator[tuple[gs.Constant, float]]:
    """The constants that can be stored so, each with the unit of its halves."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32 or id(tensor) in outputs:
            continue
        units = {_unit(node, tensor) for node in tensor.outputs}
        unit = units.pop() if len(units) == 1 and tensor.shape else None
        if unit is not None and _is_half(read(tensor) / np.float32(unit)):
            yield tensor, unit


def _unit(node: gs.Node, tensor: gs.Tensor) -> float | None:
    """Of the halves that the constant may be stored in: those of a scale or of a bias, None where it is neither."""
    places = [place for place, other in enumerate(node.inputs) if other is tensor]
    if not is_standard(node):
        return None
    casts = node.op == "Mul" and any(maker.op == "Cast" for maker in node.inputs[0].inputs)
    if places == [1] and (casts or node.op == "DequantizeLinear"):
        return SCALE_UNIT
    if node.op == "Gather" and places == [0]:  # of the scales of rows that are looked up
        units = {_unit(behind, node.outputs[0]) for behind in node.outputs[0].outputs}
        return SCALE_UNIT if units == {SCALE_UNIT} else None
    if node.op == "Add":  # a Gemm whose bias was taken out
        other = node.inputs[1 - places[0]]
        return 1.0 if len(places) == 1 and any(maker.op == "Gemm" for maker in other.inputs) else None
    slot = OPERATORS[node.op].bias if node.op in OPERATORS else None
    return 1.0 if slot is not None and places == [slot.place] else None


def _is_half(values: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16), values))


def _join(
    names: NodeBuilder, known: list[gs.Constant], constants: Sequence[gs.Constant], unit: float
) -> None:
    """The constants become pieces of one tensor, under their own names, which the graph's first nodes make."""
    joined = np.concatenate([read(constant) for constant in constants]) / np.float32(unit)
    pieces = [gs.Variable(constant.name) for constant in constants]  # no type: it would be written
    for constant, piece in zip(constants, pieces, strict=True):
        redirect(constant.outputs, constant, piece)
    whole = pieces[0]
    nodes = []
    if len(pieces) > 1:
        sizes = _constant(names, known, "mpq_sizes", np.array([len(read(c)) for c in constants], np.int64))
        whole = gs.Variable(names.name("mpq_all"))
        nodes.append(gs.Node("Split", inputs=[whole, sizes], outputs=pieces))
    if unit != 1:
        factor = _constant(names, known, "mpq_unit", np.array(unit, np.float32))
        single = gs.Variable(names.name("mpq_single"))
        nodes.append(gs.Node("Mul", inputs=[single, factor], outputs=[whole]))
        whole = single
    stored = gs.Constant(names.name("mpq_halves"), joined.astype(np.float16))
    nodes.append(gs.Node("Cast", attrs={"to": TensorProto.FLOAT}, inputs=[stored], outputs=[whole]))
    names.graph.nodes[:0] = reversed(nodes)


def _constant(names: NodeBuilder, known: list[gs.Constant], stem: str, values: NDArray[Any]) -> gs.Constant:
    """A constant that the graph has already, or a new one."""
    alike = (c for c in known if c.dtype == values.dtype and tuple(c.shape) == values.shape)
    found = next((c for c in alike if np.array_equal(read(c), values)), None)
    if found is None:
        found = names.constant(stem, values)
        known.insert(0, found)
    return found


SCALE_UNIT = 2.0**-12
