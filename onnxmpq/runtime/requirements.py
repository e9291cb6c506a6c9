"""What a written file needs of its runtime, read off its structure and written into its metadata.

The versions of ONNX Runtime are measured: files of every width and storage were loaded and run in 1.15 to 1.24
and 1.31 (Linux x86-64), and the lowest of these that runs a structure is its floor. 1.15 is the oldest tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import onnx
from onnx import TensorProto

from onnxmpq.onnx_io.contents import DEFAULT_DOMAIN, nodes, opset_version
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.report import Requirements
from onnxmpq.values.target import Target

_KEY = "onnxmpq."  # of every entry that this module writes
_OLDEST = "1.15"
# The first version that loads an opset, newest first.
_OF_OPSET = ((26, "1.31"), (24, "1.24"), (23, "1.23"), (22, "1.21"), (21, "1.18"), (20, "1.17"))
# The first version that has a CPU kernel of an operator's form (by the opset that it came in), where that is later than
# the first that loads the opset: read off the kernels that 1.16 to 1.32 list themselves.
_OF_KERNEL = {
    ("QLinearMatMul", 21): "1.20", ("DeformConv", 19): "1.25", ("DeformConv", 22): "1.25", ("LpNormalization", 22): "1.25",
    ("TensorScatter", 24): "1.25",
}  # fmt: skip
_INT4 = (TensorProto.INT4, TensorProto.UINT4)
_INT2 = (TensorProto.INT2, TensorProto.UINT2)


def requirements(model: onnx.ModelProto, target: Target) -> Requirements:
    """What `model` needs; a target's own floor counts where it is higher."""
    floors = [*_floors(model), target.onnxruntime or _OLDEST]
    most = "basic" if _has_narrow_pairs(model) else "all"
    return Requirements(target.name, target.stored_as, opset_version(model), max(floors, key=_version), most)


def describe(model: onnx.ModelProto, target: Target) -> None:
    """Write the requirements into the model's metadata_props, in place."""
    written = asdict(requirements(model, target))
    if written["optimizations"] == "all":
        del written["optimizations"]
    for name, value in written.items():
        model.metadata_props.add(key=_KEY + name, value=str(value))


def described(model: onnx.ModelProto) -> Requirements | None:
    """What `describe` wrote; None for a model without."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    values = [found.get(_KEY + name, "") for name in ("target", "storage", "opset", "onnxruntime")]
    if not all(values) or not values[2].isdecimal():
        return None
    optimizations = found.get(_KEY + "optimizations", "all")
    return Requirements(values[0], values[1], int(values[2]), values[3], optimizations)


def suited(runtime: Runtime, model: onnx.ModelProto) -> Runtime:
    """The runtime as the model needs it: where activations have 4 bits, with Q/DQ pairs kept."""
    return runtime.keeping_pairs() if _has_narrow_pairs(model) else runtime


def _has_narrow_pairs(model: onnx.ModelProto) -> bool:
    """True where a tensor is quantized to 4 bits, of which ONNX Runtime makes kernels that it then refuses."""
    narrow = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _INT4}
    for node in model.graph.node:
        if node.op_type == "Constant" and any(a.t.data_type in _INT4 for a in node.attribute):
            narrow.update(node.output)
    return any(narrow.intersection(n.input[2:]) for n in model.graph.node if n.op_type == "QuantizeLinear")


def _floors(model: onnx.ModelProto) -> Iterator[str]:
    """The version that each thing in the model needs."""
    opset = opset_version(model)
    yield next((version for lowest, version in _OF_OPSET if opset >= lowest), _OLDEST)
    yield from (version for form, version in _OF_KERNEL.items() if form in _forms(model, opset))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if any(kind in _INT2 for kind in types.values()):
        yield "1.24"
    if any(kind in _INT4 for kind in types.values()):
        yield "1.19"
    for node in model.graph.node:
        if node.op_type == "BitShift":  # bit planes: arithmetic of bytes behind them
            yield "1.21"
        elif node.op_type == "Cast" and types.get(node.input[0]) in _INT4:
            yield "1.23"


def _forms(model: onnx.ModelProto, opset: int) -> set[tuple[str, int]]:
    """The standard operators that the runtime looks for kernels of, each with the opset that its form came in."""
    operators = {node.op_type for node in nodes(model) if node.domain in DEFAULT_DOMAIN}
    if any(_becomes_integer(model)):
        operators.add("QLinearMatMul")
    known = {op for op, _ in _OF_KERNEL} & operators
    return {(op, onnx.defs.get_schema(op, opset, "").since_version) for op in known}


def _becomes_integer(model: onnx.ModelProto) -> Iterator[bool]:
    """For each MatMul, whether it lies between Q/DQ pairs that the runtime makes one QLinearMatMul of.

    Clamps before the second pair are no matter: the codes saturate where they clamp.
    """
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    quantized: set[str] = set()
    for node in reversed(model.graph.node):
        clamps = node.op_type in ("Clip", "Relu") and node.output[0] in quantized
        if node.op_type == "QuantizeLinear" or clamps:
            quantized.add(node.input[0])
        elif node.op_type == "MatMul":
            yield node.output[0] in quantized and all(made.get(n) == "DequantizeLinear" for n in node.input)


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
