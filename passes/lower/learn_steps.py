"""Fake quantization with step sizes that can be learned: what LSQ trains (Esser et al., arXiv 1902.08153)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators import is_product, readers
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import redirect
from onnxmpq.passes.node_builder import builders

Role = Literal["weight", "activation"]
ROLES: tuple[Role, ...] = ("weight", "activation")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LearnSteps:
    """Round each float32 weight of `weights`, and what its nodes multiply it with, to steps that are graph inputs.

        x -> Round(Clip(x / step, low, high)) * step

    with `step`, `low` and `high` float32 of shape [] named by `step_input`, one set for a weight and one for all
    inputs of its nodes: any width, signed or not, is a matter of feeds. Where `trained`, the weights become graph
    inputs as well. Names that no layer of the main graph has as its weight are left out. Lowering.
    """

    weights: tuple[str, ...]
    trained: bool = False

    def __call__(self, graph: gs.Graph) -> bool:
        emit = Emitter(builders(graph)[0])
        changed = False
        for weight in self.weights:
            found = _readers(graph, weight)
            if not found:
                _LOGGER.debug("%s has no steps: it is no float32 weight of a layer of the main graph", weight)
                continue
            _quantize(emit, weight, found, trained=self.trained)
            changed = True
        if changed:
            graph.toposort()
        return changed


def step_input(weight: str, role: Role, what: Literal["step", "low", "high"]) -> str:
    """The name of the graph input that holds a layer's step, or the lowest or highest code."""
    return f"{weight}/{role}_{what}"


def _readers(graph: gs.Graph, weight: str) -> list[tuple[gs.Node, int]]:
    """The nodes that multiply by the weight, and where, if it is a float32 constant."""
    products = [(node, index) for node, index in readers(graph, weight) if is_product(node.op)]
    found = [(node, index, node.inputs[index]) for node, index in products]
    return [(n, i) for n, i, t in found if isinstance(t, gs.Constant) and t.dtype == np.float32]


def _quantize(e: Emitter, weight: str, layers: list[tuple[gs.Node, int]], *, trained: bool) -> None:
    graph = e.builder.graph
    steps = {role: _inputs(graph, weight, role) for role in ROLES}
    values = layers[0][0].inputs[layers[0][1]]
    if trained:
        free = gs.Variable(weight, np.float32, values.shape)
        redirect(values.outputs, values, free)
        graph.inputs.append(free)
        values = free
    rounded = _rounded(e, values, steps["weight"])
    quantized: dict[str, gs.Variable] = {}
    for node, index in layers:
        other = node.inputs[1 - index]
        if other.name not in quantized:
            quantized[other.name] = _rounded(e, other, steps["activation"])
        node.inputs[index], node.inputs[1 - index] = rounded, quantized[other.name]


def _inputs(graph: gs.Graph, weight: str, role: Role) -> list[gs.Variable]:
    made = [gs.Variable(step_input(weight, role, what), np.float32, ()) for what in ("step", "low", "high")]
    graph.inputs.extend(made)
    return made


def _rounded(e: Emitter, tensor: gs.Tensor, steps: list[gs.Variable]) -> gs.Variable:
    step, low, high = steps
    output = e("Mul", e("Round", e("Clip", e("Div", tensor, step), low, high)), step)
    output.dtype, output.shape = np.float32, tensor.shape
    return output
