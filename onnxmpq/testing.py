"""The conformance battery: what every pass must meet, built in or given with --extra-pass.

from onnxmpq.testing import check_pass
check_pass(FuseSilu(), model)        # raises AssertionError with what is wrong
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.engine import Array, Runtime
from onnxmpq.metrics import signal_to_noise

Kind = Literal["preserving", "exposing", "lowering"]
_KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HEADER = '<ir_version: 8, opset_import: ["": 17]> '
_RUNTIME = Runtime("cpu", threads=1)


class Pass(Protocol):
    """A frozen dataclass that edits a graph in place and says whether it changed anything."""

    name: ClassVar[str]

    def __call__(self, graph: gs.Graph, /) -> bool:
        """Edit `graph`; True if it changed."""


def check_pass(
    rewrite: Pass,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array] | None = None,
    *,
    kind: Kind = "preserving",
    decibels: float = 100.0,
) -> onnx.ModelProto:
    """Run a pass on a model, check that it keeps the contract, and return the rewritten model.

    Checked: the pass is a frozen dataclass with a kebab-case `name`; it returns a bool that is true exactly
    when the written graph differs; the same graph gives the same bytes; a second run returns False; names,
    dtypes and shapes of graph inputs and outputs are kept (an exposing pass may add outputs); the result is
    valid ONNX. Then both models run on `feeds` (default: `random_feeds`) in ONNX Runtime with its
    optimisations off: outputs of a preserving pass agree to `decibels` of signal-to-noise, those of an
    exposing pass are bit-equal, those of a lowering pass keep dtypes and shapes.

    Raises AssertionError that names what does not hold.
    """
    _check_declaration(rewrite)
    graph = _import(model)
    before = _export(graph)
    after = _check_answers(rewrite, graph, before)
    _check(_bytes(_rewritten(rewrite, model)) == _bytes(after), f"{rewrite.name} is not deterministic")
    _check_interface(before.graph, after.graph, kind)
    onnx.checker.check_model(after)
    feeds = random_feeds(model) if feeds is None else feeds
    _check_outputs(run(before, feeds), run(after, feeds), kind, decibels)
    return after


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
    for spec in _RUNTIME.session(model, optimize=False).inputs:
        shape = [size or 1 for size in spec.shape]
        values = rng.standard_normal(shape) if spec.dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[spec.name] = np.asarray(values).astype(spec.dtype)
    return feeds


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model as it is written: on the CPU, one thread, no optimisation."""
    return _RUNTIME.session(model, optimize=False).run(feeds)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _check_declaration(rewrite: Pass) -> None:
    kind = type(rewrite)
    params = getattr(kind, "__dataclass_params__", None)
    _check(params is not None and params.frozen, f"{kind.__name__} is not a frozen dataclass")
    name = getattr(kind, "name", None)
    _check(
        isinstance(name, str) and _KEBAB_CASE.fullmatch(name) is not None,
        f"{kind.__name__}.name is {name!r}, wanted a class variable in kebab-case, such as 'fold-pad'",
    )
    _check(
        "name" not in {field.name for field in dataclasses.fields(rewrite)},  # type: ignore[arg-type]
        f"{kind.__name__}.name is a field, wanted a ClassVar",
    )


def _check_answers(rewrite: Pass, graph: gs.Graph, before: onnx.ModelProto) -> onnx.ModelProto:
    """Run the pass twice on the graph: both answers are true to what happened, and the second is False."""
    answer = rewrite(graph)
    after = _export(graph)
    differs = _bytes(before) != _bytes(after)
    _check(isinstance(answer, bool), f"{rewrite.name} returned {answer!r}, wanted True or False")
    _check(
        answer == differs,
        f"{rewrite.name} returned {answer}, but the graph is {'another' if differs else 'the same'}",
    )
    _check(not rewrite(graph), f"{rewrite.name} returned True again on its own result")
    _check(
        _bytes(_export(graph)) == _bytes(after), f"{rewrite.name} changed its own result and returned False"
    )
    return after


def _check_interface(before: onnx.GraphProto, after: onnx.GraphProto, kind: Kind) -> None:
    kept = len(before.output) if kind == "exposing" else len(after.output)
    for what, old, new in (
        ("inputs", before.input, after.input),
        ("outputs", before.output, after.output[:kept]),
    ):
        same = [_described(value) for value in old] == [_described(value) for value in new]
        _check(
            same,
            f"graph {what} changed from {[v.name for v in old]} to {[v.name for v in new]}, or their types did",
        )


def _described(value: onnx.ValueInfoProto) -> tuple[str, bytes]:
    return value.name, value.type.SerializeToString(deterministic=True)


def _check_outputs(
    expected: Mapping[str, Array], found: Mapping[str, Array], kind: Kind, decibels: float
) -> None:
    wanted = {"preserving": decibels, "exposing": math.inf, "lowering": -math.inf}[kind]
    for name, value in expected.items():
        other = found[name]
        same = (value.dtype, value.shape) == (other.dtype, other.shape)
        _check(same, f"output {name} was {value.dtype} {value.shape}, is {other.dtype} {other.shape}")
        ratio = signal_to_noise(value, other)
        _check(ratio >= wanted, f"output {name} agrees to {ratio:.1f} dB, wanted at least {wanted:.1f}")


def _rewritten(rewrite: Pass, model: onnx.ModelProto) -> onnx.ModelProto:
    graph = _import(model)
    rewrite(graph)
    return _export(graph)


def _import(model: onnx.ModelProto) -> gs.Graph:
    own = onnx.ModelProto()  # a graph renames tensors inside the model that it was made from
    own.CopyFrom(model)
    return gs.import_onnx(own)


def _export(graph: gs.Graph) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(gs.export_onnx(graph))
    return model


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
