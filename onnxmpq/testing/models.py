"""Small models for tests, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.operators import OPERATORS
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import VECTOR, Layer

Kind = Literal["preserving", "exposing", "lowering"]
RUNTIME = Runtime("cpu", threads=1)
_HEADER = '<ir_version: 8, opset_import: ["": 17]> '


def model_of(text: str, /, **constants: Array) -> onnx.ModelProto:
    """A model from ONNX text, with arrays for the tensors that the text leaves open.

    A text without a header of its own (`<ir_version: ...>`) is a graph of opset 17.

    >>> model = model_of("g (float[1, 2] x) => (float[1, 3] y) { y = MatMul (x, w) }", w=np.ones((2, 3), np.float32))
    >>> model.graph.initializer[0].name
    'w'
    """
    model = onnx.parser.parse_model(text if text.startswith("<") else _HEADER + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in constants.items())
    return model


def random_feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Standard normal values for every input (0 or 1 for integers and booleans), free dimensions of size 1."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in RUNTIME.session(model, optimize=False).inputs:
        shape = [size or 1 for size in spec.shape]
        values = rng.standard_normal(shape) if spec.dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[spec.name] = np.asarray(values).astype(spec.dtype)
    return feeds


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model as it is written: on the CPU, one thread, no optimisation."""
    return RUNTIME.session(model, optimize=False).run(feeds)


def check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def serialized(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def check_interface(before: onnx.GraphProto, after: onnx.GraphProto, kind: Kind) -> None:
    kept = len(before.output) if kind == "exposing" else len(after.output)
    for what, old, new in (
        ("inputs", before.input, after.input),
        ("outputs", before.output, after.output[:kept]),
    ):
        same = [(v.name, v.type) for v in old] == [(v.name, v.type) for v in new]
        check(
            same,
            f"graph {what} changed from {[v.name for v in old]} to {[v.name for v in new]}, or their types did",
        )


def example_layer(
    name: str,
    op: str,
    nodes: tuple[str, ...],
    weight: str,
    shape: tuple[int, ...],
    axis: int,
    group: int = 1,
    **fields: Any,
) -> Layer:
    """A layer as a node of its operator would have it: with output channels along `axis` of its weight."""
    x, w = gs.Variable("x", np.float32), gs.Variable(weight, np.float32, shape)
    is_left = op == "MatMul" and axis == len(shape) - 2
    attrs = {"group": group, "transB": 1 - axis}
    node = gs.Node(op, attrs=attrs, inputs=[w, x] if is_left else [x, w], outputs=[gs.Variable("y")])
    layout = OPERATORS[op].layout(node, 0 if is_left else 1) if len(shape) > 1 else VECTOR
    return Layer(name, op, nodes, weight, shape, layout, **fields)
