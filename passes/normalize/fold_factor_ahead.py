"""A factor that nothing before it takes goes into the layers behind it, past what is linear in between."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnxmpq.operators import is_computing, operator_of
from onnxmpq.passes.matching import (
    holds,
    is_constant,
    is_float_constant,
    is_private,
    is_standard,
    optional_input,
    own_name,
    read,
    redirect,
    remove,
    require,
    rewrites,
    scalar_factor,
    scaled,
)
from onnxmpq.values.arrays import Array

# What a positive factor passes, at the first input.
_PASSED = frozenset({
    "AveragePool", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
_GELU_FACTORS = frozenset({"Erf", "Tanh"})


@rewrites({"Mul", "Div"})
def fold_factor_ahead(graph: gs.Graph, node: gs.Node) -> None:
    """Drop a Mul or Div by a positive scalar where every path from it ends in a layer, whose weight takes it.

    Sums with a constant on the way have that divided by it. Of the operands of a product one brings the factor along (a
    gate's way to the product leads through layers). A factor of GELU stays: runtimes have a kernel for the whole.
    So go the learned scales behind PP-LCNet's activations. Preserving: equal but for rounding.
    """
    place, factor = scalar_factor(node)
    require(factor > 0, f"its factor is {factor:g}")
    source, result = node.inputs[1 - place], node.outputs[0]
    require(
        not any(_is_gelu_factor(t) for maker in source.inputs for t in maker.inputs), "it completes a GELU"
    )
    way = _Way(graph, factor)
    way.follow(result)
    way.check()
    for reader, index, values in way.constants:
        reader.inputs[index] = gs.Constant(own_name(graph, reader.inputs[index]), values)
    redirect(result.outputs, result, source)
    remove(graph, [node])


@dataclass(slots=True)
class _Way:
    """What a factor meets: constants to change, by node and input, the tensors that bring it, products on the way."""

    graph: gs.Graph
    factor: float
    constants: list[tuple[gs.Node, int, Array]] = field(default_factory=list)
    tensors: list[gs.Tensor] = field(default_factory=list)
    products: list[gs.Node] = field(default_factory=list)

    def follow(self, tensor: gs.Tensor) -> None:
        """To the layers behind a tensor; NoMatch where something else stands there."""
        if any(tensor is known for known in self.tensors):
            return
        require(
            all(tensor is not output for output in self.graph.outputs), f"{tensor.name} is a graph output"
        )
        require(bool(tensor.outputs), f"nothing reads {tensor.name}")
        self.tensors.append(tensor)
        for reader in tensor.outputs:
            require(
                is_standard(reader) and holds(self.graph, reader), f"{reader.op} is no operator of the graph"
            )
            self._pass(reader, tensor)

    def _pass(self, reader: gs.Node, tensor: gs.Tensor) -> None:
        operator = operator_of(reader)
        if operator is not None and is_computing(reader.op):
            require(operator.result is not None, f"{reader.op} is no layer that a factor is folded into")
            places = [place for place, own in enumerate(reader.inputs) if own is tensor]
            require(places == [0], f"{tensor.name} is no layer's data alone")
            self._change(reader, 1, self.factor)
            return
        if reader.op == "Add" and any(map(is_constant, reader.inputs)):
            self._change(reader, [is_constant(t) for t in reader.inputs].index(True), 1 / self.factor)
        elif reader.op == "Mul" and not any(map(_is_gelu_factor, reader.inputs)):
            self.products.append(reader)
        else:
            require(
                reader.op in _PASSED and reader.inputs[0] is tensor,
                f"{reader.op} is not linear, or not known to be",
            )
            require(len(reader.outputs) == 1, f"{reader.op} has several outputs")
        self.follow(reader.outputs[0])

    def _change(self, reader: gs.Node, index: int, factor: float) -> None:
        constant = reader.inputs[index]
        require(is_float_constant(constant), f"{constant.name} is no constant of floats")
        is_free = not is_computing(reader.op) or is_private(self.graph, constant)
        require(is_free, f"the weight {constant.name} is read by others as well")
        bias = optional_input(reader, 2) if is_computing(reader.op) else None
        require(
            all(t is not constant for t in (reader.inputs[0] if index else None, bias)), "it is read twice"
        )
        self.constants.append((reader, index, scaled(read(constant), factor)))

    def check(self) -> None:
        """NoMatch where both operands of a product bring the factor."""
        for node in self.products:
            brought = [any(t is known for known in self.tensors) for t in node.inputs]
            require(sum(brought) == 1, f"the factor reaches both operands of {node.outputs[0].name}")


def _is_gelu_factor(tensor: gs.Tensor) -> bool:
    """True for the 1 + erf or 1 + tanh of a GELU, times a constant maybe."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is not None and maker.op == "Mul" and any(map(is_constant, maker.inputs)):
        return any(map(_is_gelu_factor, maker.inputs))
    made = {node.op for t in maker.inputs for node in t.inputs} if maker is not None else set()
    return maker is not None and maker.op == "Add" and not made.isdisjoint(_GELU_FACTORS)
