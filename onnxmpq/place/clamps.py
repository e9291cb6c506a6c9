"""What clamps do to the values of tensors: an integer kernel saturates where a Relu or Clip behind it clamps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import is_constant, is_standard, optional_input, read
from onnxmpq.place.readers import Readers
from onnxmpq.place.refusals import MOVING


def clamps_behind(node: gs.Node, readers: Readers) -> Iterator[gs.Node]:
    """Relu and Clip(0, ...) that follow: a kernel's output saturates where they clamp."""
    reader = readers.only(node.outputs[0])
    while reader is not None and clamps_at_zero(reader):
        yield reader
        reader = readers.only(reader.outputs[0])


def clamps_at_zero(node: gs.Node) -> bool:
    """True for a Relu, and for a Clip from 0 up."""
    if node.op != "Clip" or not is_standard(node):
        return node.op == "Relu" and is_standard(node)
    low, high = optional_input(node, 1), optional_input(node, 2)
    if not is_constant(low) or not (high is None or is_constant(high)):
        return False
    return read(low).item() == 0 and (high is None or read(high).item() > 0)


def bounds(tensor: gs.Tensor) -> tuple[float, float]:
    """An interval that certainly holds a tensor's values: what clamps leave, moved and concatenated."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None:
        return -math.inf, math.inf
    if maker.op in MOVING:
        return bounds(maker.inputs[0])
    if maker.op == "HardSigmoid":
        return 0.0, 1.0
    if maker.op == "Concat":
        lows, highs = zip(*map(bounds, maker.inputs), strict=True)
        return min(lows), max(highs)
    if clamps_at_zero(maker):
        limit = optional_input(maker, 2)
        high = math.inf if limit is None else float(read(limit).item())
        return 0.0, min(high, bounds(maker.inputs[0])[1])
    return -math.inf, math.inf


def clamped(graph: gs.Graph) -> frozenset[str]:
    """The tensors that a clamp bounds from above: a kernel that takes it in saturates there, by its range."""
    return frozenset(name for name, tensor in graph.tensors().items() if bounds(tensor)[1] < math.inf)
