"""Which layers run as integer kernels: read off the graph that ONNX Runtime made of the written file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxmpq.values.layer import Layer

# The input that holds the weight's codes, by integer operator (ONNX and com.microsoft).
_CODES_INPUT = {
    "ConvInteger": 1, "DynamicQuantizeMatMul": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "MatMulNBits": 1, "QGemm": 3, "QLinearConv": 3,
    "QLinearMatMul": 3,
}  # fmt: skip


_TURNED = "_T"  # what MatMulNBits reads: the runtime turns the codes


def integer_kernels(
    written: onnx.ModelProto, optimized: onnx.ModelProto, layers: Sequence[Layer]
) -> dict[str, str]:
    """The integer operator of each layer that runs as one in all of its nodes, by layer name.

    `optimized` is what the runtime saved when it loaded `written` (`Runtime.session(save_optimized=...)`). Node
    names and the names of weights do not outlive its fusions; the name of a weight's codes does: in `written`
    they feed the DequantizeLinear that makes the weight, in `optimized` the integer operator itself. A
    DequantizeLinear that still reads them stands before a float kernel.
    """
    codes = {
        node.output[0]: node.input[0] for node in written.graph.node if node.op_type == "DequantizeLinear"
    }
    readers = _readers_of_codes(optimized)
    found = {layer.name: readers.get(codes.get(layer.weight, ""), set()) for layer in layers}
    return {
        name: next(iter(ops)) for name, ops in found.items() if len(ops) == 1 and ops <= _CODES_INPUT.keys()
    }


def _readers_of_codes(model: onnx.ModelProto) -> dict[str, set[str]]:
    """The operators that take a tensor as codes of a weight, or dequantize it, by the tensor's name."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        index = 0 if node.op_type == "DequantizeLinear" else _CODES_INPUT.get(node.op_type)
        if index is not None:
            name = node.input[index]
            readers.setdefault(
                name.removesuffix(_TURNED) if node.op_type == "MatMulNBits" else name, set()
            ).add(node.op_type)
    return readers
