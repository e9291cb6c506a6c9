"""What made a tensor's values: the operator, or the one that a few operators write out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

# What only recasts, moves or picks values.
_MOVING = frozenset({
    "Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
_BOUNDING = frozenset({"Clip", "Max", "Add", "Expand", "Unsqueeze", "Reshape", "Cast", "Identity"})
_NORMALIZE = "LpNormalization"  # what a division by the norm is called here
UNIT_RANGE = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})  # their values lie in 0..1

# What makes of values in 0..1 values in 0..1 again.
_KEEPING_RANGE = frozenset({
    "AveragePool", "Concat", "GlobalAveragePool", "GlobalMaxPool", "Max", "MaxPool", "Mean", "Min", "Mul", "Pow",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "Resize", "Sqrt", "TopK", "Upsample",
})  # fmt: skip


class Makers:
    """The makers of a graph's tensors."""

    def __init__(self, *graphs: onnx.GraphProto) -> None:
        """Of a graph, or of a branch behind the graphs around it, whose tensors it reads, too."""
        self._graphs = graphs
        self._made = {name: node for graph in graphs for node in graph.node for name in node.output}
        self._constants = {i.name: i for graph in graphs for i in graph.initializer}
        self._shares: dict[str, bool] = {}

    def op(self, tensor: str) -> str:
        """The operator that computes a tensor's values, those that only move them passed over; "" for an input.

        A softmax, a sigmoid and a division by the norm that are written out go by the operator's name, and an If by
        that of its branches where they agree.
        """
        source = self._source(tensor, _MOVING)
        node = self._made.get(source)
        if node is None:
            return ""
        made = {inner.op(name) for inner, name in self._branches(node, source)}
        return made.pop() if len(made) == 1 else str(self._written_out(node) or node.op_type)

    def node(self, tensor: str) -> onnx.NodeProto | None:
        """The node that computes a tensor's values, those that only move them passed over; None for an input."""
        return self._behind(tensor, _MOVING)

    def is_share(self, tensor: str) -> bool:
        """True where a tensor's values lie in 0..1 by what made them: probabilities, their products, 1 less one of them."""
        if tensor not in self._shares:
            self._shares[tensor] = self._makes_share(self._source(tensor, _MOVING))
        return self._shares[tensor]

    def _makes_share(self, tensor: str) -> bool:
        node = self._made.get(tensor)
        if node is None:
            return False
        if branches := self._branches(node, tensor):
            return all(inner.is_share(name) for inner, name in branches)
        if (self._written_out(node) or node.op_type) in UNIT_RANGE:
            return True
        if node.op_type == "Sub":
            return self._value(node.input[0]) == 1 and self.is_share(node.input[1])
        data = [name for name in node.input if name and not self._is_constant(name)]
        return node.op_type in _KEEPING_RANGE and bool(data) and all(map(self.is_share, data))

    def along(self, tensor: str, axis: int, shapes: Mapping[str, Sequence[int]]) -> list[tuple[int, str]]:
        """How many channels which operator made, along an axis of `tensor`; `shapes` are those of the graph's tensors.

        A Concat along that axis is looked through, however often, and a Transpose. Raises KeyError where a shape is
        not known.
        """
        node, rank = self._made.get(tensor), len(shapes[tensor])
        if node is not None and node.op_type == "Identity":
            return self.along(node.input[0], axis, shapes)
        if node is not None and node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [*range(rank)][::-1])
            return self.along(node.input[0], perm[axis], shapes)
        if node is not None and node.op_type == "Concat" and _axis(node) % rank == axis:
            return [part for name in node.input for part in self.along(name, axis, shapes)]
        return [(shapes[tensor][axis], self.op(tensor))]

    def _branches(self, node: onnx.NodeProto, tensor: str) -> list[tuple[Makers, str]]:
        """The branches of an If, and what each gives for its output `tensor`; none of other nodes."""
        if node.op_type != "If":
            return []
        place = list(node.output).index(tensor)
        return [(Makers(*self._graphs, a.g), a.g.output[place].name) for a in node.attribute]

    def _behind(self, tensor: str, passed: frozenset[str]) -> onnx.NodeProto | None:
        return self._made.get(self._source(tensor, passed))

    def _source(self, tensor: str, passed: frozenset[str]) -> str:
        while (node := self._made.get(tensor)) is not None and node.op_type in passed:
            tensor = self._data(node)
        return tensor

    def _data(self, node: onnx.NodeProto) -> str:
        """The input of a node that holds data: the first that is no constant."""
        data = [str(name) for name in node.input if name and not self._is_constant(name)]
        return data[0] if data else str(node.input[0])

    def _is_constant(self, tensor: str) -> bool:
        node = self._made.get(tensor)
        return tensor in self._constants or (node is not None and node.op_type == "Constant")

    def _written_out(self, node: onnx.NodeProto) -> str | None:
        if node.op_type in ("Div", "Mul") and len(node.input) == 2:
            return self._quotient(node)
        if node.op_type == "Reciprocal":
            return "Sigmoid" if self._is_one_and_exp(node.input[0]) else None
        if node.op_type == "Sub":
            return "LogSoftmax" if self._is_log_of_sum(node.input[1]) else None
        return None

    def _quotient(self, node: onnx.NodeProto) -> str | None:
        """A division, also as a product with the reciprocal."""
        above, below = node.input
        if node.op_type == "Mul":
            other = self._made.get(below)
            if other is None or other.op_type != "Reciprocal":
                return None
            below = other.input[0]
        if self._value(above) == 1:
            return "Sigmoid" if self._is_one_and_exp(below) else None
        sums = self._behind(below, _BOUNDING)
        if sums is None:
            return None
        if sums.op_type in ("ReduceSum", "ReduceL1") and sums.input[0] == above:
            return "Softmax" if self._is(above, "Exp") else None
        return _NORMALIZE if self._is_norm(sums) else None

    def _is_norm(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Sqrt":
            inner = self._behind(node.input[0], _BOUNDING)
            return inner is not None and inner.op_type in ("ReduceSum", "ReduceSumSquare")
        if node.op_type == "Pow":
            return self._value(node.input[1]) == 0.5 and self._is(node.input[0], "ReduceSum")
        return node.op_type == "ReduceL2"

    def _is_one_and_exp(self, tensor: str) -> bool:
        node = self._made.get(tensor)
        if node is None or node.op_type != "Add":
            return False
        return any(self._value(n) == 1 for n in node.input) and any(self._is(n, "Exp") for n in node.input)

    def _is_log_of_sum(self, tensor: str) -> bool:
        """log(sum(exp(x))), maybe with the largest value that was taken away added back."""
        node = self._behind(tensor, _BOUNDING)
        if node is not None and node.op_type == "ReduceLogSumExp":
            return True
        return node is not None and node.op_type == "Log" and self._is(node.input[0], "ReduceSum")

    def _is(self, tensor: str, op: str) -> bool:
        return tensor in self._made and self._made[tensor].op_type == op

    def _value(self, tensor: str) -> float | None:
        """The value of a constant that holds one value."""
        node = self._made.get(tensor)
        if tensor in self._constants:
            values = numpy_helper.to_array(self._constants[tensor])
        elif node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            values = numpy_helper.to_array(node.attribute[0].t)
        else:
            return None
        same = values.size and values.dtype.kind in "fiu" and (values == values.ravel()[0]).all()
        return float(np.ravel(values)[0]) if same else None


def _axis(concat: onnx.NodeProto) -> int:
    return next(int(a.i) for a in concat.attribute if a.name == "axis")
