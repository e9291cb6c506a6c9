"""The battery for passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.testing.models import Kind, check, check_interface, random_feeds, run, serialized
from onnxmpq.values.arrays import Array

Pass = Callable[[gs.Graph], bool]  # edits a graph in place and says whether it changed anything


def check_pass(
    rewrite: Pass,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array] | None = None,
    *,
    kind: Kind = "preserving",
    decibels: float = 100.0,
) -> onnx.ModelProto:
    """Run a pass on a model, check that it keeps the contract, and return the rewritten model.

    Checked: a pass with parameters is a frozen dataclass; it returns a bool that is true exactly when the
    written graph differs; the same graph gives the same bytes; a second run returns False; names,
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
    check(
        serialized(_rewritten(rewrite, model)) == serialized(after), f"{_name(rewrite)} is not deterministic"
    )
    check_interface(before.graph, after.graph, kind)
    onnx.checker.check_model(after)
    feeds = random_feeds(model) if feeds is None else feeds
    _check_outputs(run(before, feeds), run(after, feeds), kind, decibels)
    return after


def _check_declaration(rewrite: Pass) -> None:
    params = getattr(rewrite, "__dataclass_params__", None)
    is_frozen = isinstance(rewrite, FunctionType) if params is None else params.frozen
    check(is_frozen, f"{_name(rewrite)} is neither a function nor a frozen dataclass")


def _name(rewrite: Pass) -> str:
    return getattr(rewrite, "__name__", type(rewrite).__name__)


def _check_answers(rewrite: Pass, graph: gs.Graph, before: onnx.ModelProto) -> onnx.ModelProto:
    """Run the pass twice on the graph: both answers are true to what happened, and the second is False."""
    answer = rewrite(graph)
    after = _export(graph)
    differs = serialized(before) != serialized(after)
    check(isinstance(answer, bool), f"{_name(rewrite)} returned {answer!r}, wanted True or False")
    check(
        answer == differs,
        f"{_name(rewrite)} returned {answer}, but the graph is {'another' if differs else 'the same'}",
    )
    check(not rewrite(graph), f"{_name(rewrite)} returned True again on its own result")
    check(
        serialized(_export(graph)) == serialized(after),
        f"{_name(rewrite)} changed its own result and returned False",
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
