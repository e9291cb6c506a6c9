"""The battery for passes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import ClassVar, Protocol

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.metrics.metric import signal_to_noise
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.testing.models import Kind, check, check_interface, random_feeds, run, serialized
from onnxmpq.values.arrays import Array

_KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


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
    graph = import_graph(model)
    before = _export(graph)
    after = _check_answers(rewrite, graph, before)
    check(serialized(_rewritten(rewrite, model)) == serialized(after), f"{rewrite.name} is not deterministic")
    check_interface(before.graph, after.graph, kind)
    onnx.checker.check_model(after)
    feeds = random_feeds(model) if feeds is None else feeds
    _check_outputs(run(before, feeds), run(after, feeds), kind, decibels)
    return after


def _check_declaration(rewrite: Pass) -> None:
    kind = type(rewrite)
    params = getattr(kind, "__dataclass_params__", None)
    check(params is not None and params.frozen, f"{kind.__name__} is not a frozen dataclass")
    name = getattr(kind, "name", None)
    check(
        isinstance(name, str) and _KEBAB_CASE.fullmatch(name) is not None,
        f"{kind.__name__}.name is {name!r}, wanted a class variable in kebab-case, such as 'fold-pad'",
    )
    check(
        "name" not in {field.name for field in dataclasses.fields(rewrite)},  # type: ignore[arg-type]
        f"{kind.__name__}.name is a field, wanted a ClassVar",
    )


def _check_answers(rewrite: Pass, graph: gs.Graph, before: onnx.ModelProto) -> onnx.ModelProto:
    """Run the pass twice on the graph: both answers are true to what happened, and the second is False."""
    answer = rewrite(graph)
    after = _export(graph)
    differs = serialized(before) != serialized(after)
    check(isinstance(answer, bool), f"{rewrite.name} returned {answer!r}, wanted True or False")
    check(
        answer == differs,
        f"{rewrite.name} returned {answer}, but the graph is {'another' if differs else 'the same'}",
    )
    check(not rewrite(graph), f"{rewrite.name} returned True again on its own result")
    check(
        serialized(_export(graph)) == serialized(after),
        f"{rewrite.name} changed its own result and returned False",
    )
    return after


def _check_outputs(
    expected: Mapping[str, Array], found: Mapping[str, Array], kind: Kind, decibels: float
) -> None:
    wanted = {"preserving": decibels, "exposing": math.inf, "lowering": -math.inf}[kind]
    for name, value in expected.items():
        other = found[name]
        same = (value.dtype, value.shape) == (other.dtype, other.shape)
        check(same, f"output {name} was {value.dtype} {value.shape}, is {other.dtype} {other.shape}")
        ratio = signal_to_noise(value, other)
        check(ratio >= wanted, f"output {name} agrees to {ratio:.1f} dB, wanted at least {wanted:.1f}")


def _rewritten(rewrite: Pass, model: onnx.ModelProto) -> onnx.ModelProto:
    graph = import_graph(model)
    rewrite(graph)
    return _export(graph)


def _export(graph: gs.Graph) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(gs.export_onnx(graph))
    return model
