"""The constants of a model that no layer holds, which stay as they are."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import numpy_helper

from onnxmpq.onnx_io.contents import constants, graphs
from onnxmpq.operators import OPERATORS, is_computing
from onnxmpq.values.other_weight import OtherWeight

_LEAST = 0.01  # of the file's bytes: smaller ones are not worth a line
_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)


def other_weights(model: onnx.ModelProto, known: Collection[str]) -> tuple[OtherWeight, ...]:
    """Constants of floats above a hundredth of the model's bytes that are none of `known`, largest first.

    Those of control-flow bodies and of Constant nodes count, too.
    """
    least = _LEAST * model.ByteSize()
    readers = _readers(model)
    found = [
        _other(tensor, name, readers.get(name, []))
        for name, tensor in constants(model).items()
        if name not in known and tensor.data_type in _FLOATS and _size(tensor) > least
    ]
    return tuple(sorted(found, key=lambda weight: -weight.stored_bytes))


def _readers(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The operators that read each tensor."""
    found: dict[str, list[str]] = {}
    for graph in graphs(model.graph):
        for node in graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node.op_type)
    return found


def _other(tensor: onnx.TensorProto, name: str, ops: list[str]) -> OtherWeight:
    read = " and ".join(dict.fromkeys(ops)) or "nothing"
    layers = [op for op in dict.fromkeys(ops) if is_computing(op)]
    reason = f"{read} is not among the operators whose weights are quantized"
    if layers:
        reason = f"{' and '.join(layers)} does not read it as a weight"
    elif any(op in OPERATORS for op in ops):
        reason = f"nothing is computed with what {read} gives of it, or it is a bias or small"
    return OtherWeight(name, read, _size(tensor), reason)


def _size(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or numpy_helper.to_array(tensor).nbytes
