"""The conformance batteries: what every pass and every sensitivity method must meet, built in or a user's own.

from onnxmpq.testing import check_method, check_pass
check_pass(FuseSilu(), model)        # raises AssertionError with what is wrong
check_method(kurtosis)
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.data import InputSpec, open_data
from onnxmpq.engine import Array, Runtime
from onnxmpq.metrics import signal_to_noise
from onnxmpq.plan import CostTable, Sensitivity, Trajectory
from onnxmpq.prepare import prepare
from onnxmpq.sensitivity import Method
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.spec import Layer, Option
from onnxmpq.weights.candidates import Candidates

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


def check_method(
    method: Method, model: onnx.ModelProto | None = None, arrays: Mapping[str, Array] | None = None
) -> Sensitivity:
    """Run a sensitivity method, check that it keeps the contract, and return what it gives.

    `arrays` are samples of the model's input and `labels`; by default both are those of a small classifier.

    Checked: it gives a CostTable with a cost for every option of every layer that has a choice, or a Trajectory
    of plans over these layers and options in which nothing grows; it leaves the probe as it was; it calls
    `progress`, whose last call says that all is done (a method that reads data); a second run, another run in
    between and another state of NumPy's global generator give an equal result, and so does the same network
    under other names; what read data differs for another network (the first weight's elements permuted), and
    what says that it read none (`samples` 0) does not look at them.

    Raises AssertionError that names what does not hold.
    """
    if model is None or arrays is None:
        model = classifier()
        arrays = labelled(model)
    calls: list[tuple[int, int]] = []
    probe = dataclasses.replace(probe_of(model, arrays), progress=lambda *call: calls.append(call))
    before = _state(probe)
    np.random.seed(0)  # noqa: NPY002 - the global state that no method may read
    found = method(probe)
    _check(_state(probe) == before, "the method changed the probe, which belongs to all of them")
    _check_found(found, probe)
    _check_progress(found, calls)
    shuffled = method(probe_of(_permuted(model, probe.layers[0].weight), arrays))
    np.random.seed(1)  # noqa: NPY002
    _check(method(probe) == found, "a second run on the same probe gave another result")
    renamed = probe_of(onnx.compose.add_prefix(model, "renamed/"), arrays)
    _check(
        _nameless(method(renamed)) == _nameless(found),
        "the same network under other names gave another result",
    )
    if found.samples:
        _check(_nameless(shuffled) != _nameless(found), "another network gave the same result")
    else:
        noise = {name: value if name == "labels" else -value for name, value in arrays.items()}
        _check(method(probe_of(model, noise)) == found, "the method read data and says that it did not")
    return found


def probe_of(
    model: onnx.ModelProto,
    arrays: Mapping[str, Array],
    *,
    bits: Sequence[int] = (2, 4, 8),
    rounding: str = "nearest",
    **more: Any,
) -> Probe:
    """What `compile` would give a method: the prepared model, its layers, and these samples as data.

    `more` are further fields of the Probe. Weights handed out are read-only.
    """
    specs = [InputSpec(i.name, i.dtype, (None, *i.shape[1:])) for i in _RUNTIME.session(model).inputs]
    data = open_data(arrays, specs, samples=None)
    sample = next(iter(data.batches(1))).feeds
    prepared = prepare(_RUNTIME, model, sample, integer=False, batchable=True)
    candidates = Candidates(prepared.model, rounding)
    options = {la.name: tuple(Option(b) for b in sorted(bits)) for la in prepared.layers if la.reason is None}

    def candidate(layer: Layer, width: int) -> dict[str, Array]:
        constants = candidates.constants(layer, width)
        for value in constants.values():
            value.setflags(write=False)
        return constants

    return Probe(
        prepared.model, prepared.layers, options, candidate, data, prepared.metric, _RUNTIME, prepared.traced,
        prepared.batch_size, **more,
    )  # fmt: skip


def classifier() -> onnx.ModelProto:
    """Two convolutions around a skip, a pooling and a matrix: ten thousand operations, five classes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 2, 3, 3), "w2": (6, 6, 3, 3), "w3": (8, 6, 1, 1), "w4": (8, 5)}
    weights = {
        n: rng.normal(0, 1 / math.sqrt(math.prod(s[1:])), s).astype(np.float32) for n, s in shapes.items()
    }
    text = """g (float[N, 2, 6, 6] x) => (float[N, 5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        d = Add (b, c)  e = Relu (d)  f = Conv (e, w3)  r = Relu (f)  p = GlobalAveragePool (r)
        h = Flatten (p)  y = MatMul (h, w4)
    }"""
    return model_of(text, **weights)


def labelled(model: onnx.ModelProto) -> dict[str, Array]:
    """64 samples of noise, labelled with the model's own classes but for every eighth."""
    x = np.random.default_rng(1).standard_normal((64, 2, 6, 6)).astype(np.float32)
    labels = next(iter(run(model, {"x": x}).values())).argmax(axis=1)
    labels[::8] = (labels[::8] + 1) % 5
    return {"x": x, "labels": labels}


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


def _state(probe: Probe) -> tuple[bytes, str]:
    return _bytes(probe.model), repr((probe.layers, probe.options, probe.traced))


def _check_found(found: Sensitivity, probe: Probe) -> None:
    wanted = {name: set(options) for name, options in probe.options.items()}
    if isinstance(found, CostTable):
        given = {name: set(costs) for name, costs in found.costs.items()}
        _check(given == wanted, f"the table has costs of {given}, wanted {wanted}")
        return
    _check(isinstance(found, Trajectory), f"the method gave {found!r}, wanted a CostTable or a Trajectory")
    if found.layers:
        _check_parts(found.layers, probe)
        wanted = {layer.name: wanted[layer.part_of or layer.name] for layer in found.layers}
    widths = [{name: option.weight_bits for name, option in plan.options.items()} for plan in found.plans]
    for plan in found.plans:
        _check(
            plan.options.keys() == wanted.keys(), f"a plan decides {set(plan.options)}, wanted {set(wanted)}"
        )
        strange = {n: o for n, o in plan.options.items() if o not in wanted[n]}
        _check(not strange, f"a plan takes options that the probe does not offer: {strange}")
    for wide, narrow in itertools.pairwise(widths):
        _check(all(narrow[n] <= wide[n] for n in wide), "a layer grows on the path, which must only narrow")
    narrowest = {name: min(o.weight_bits for o in options) for name, options in wanted.items()}
    _check(widths[-1] == narrowest, "the path ends before every layer has its narrowest option")


def _check_parts(parts: Sequence[Layer], probe: Probe) -> None:
    for layer in [layer for layer in probe.layers if layer.name in probe.options]:
        own = [part for part in parts if (part.part_of or part.name) == layer.name]
        channels = sorted(c for part in own for c in (part.part or range(part.channels)))
        _check(
            channels == list(range(layer.channels)) and sum(part.params for part in own) == layer.params,
            f"the groups of layer {layer.name!r} do not hold each of its {layer.channels} channels once: {channels}",
        )


def _check_progress(found: Sensitivity, calls: Sequence[tuple[int, int]]) -> None:
    if found.samples:
        _check(bool(calls), "the method never called probe.progress")
    _check(all(0 <= done <= total for done, total in calls), f"progress went beyond its total: {calls}")
    _check(
        not calls or calls[-1][0] == calls[-1][1],
        f"the last call of progress was {calls[-1:]}, not all of it",
    )


def _permuted(model: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """The model with the elements of one weight in another order."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = next(i for i in changed.graph.initializer if i.name == weight)
    values = onnx.numpy_helper.to_array(tensor)
    order = np.random.default_rng(2).permutation(values.size)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.ravel()[order].reshape(values.shape), weight))
    return changed


def _nameless(found: Sensitivity) -> object:
    """What was found, with layers by number."""
    if isinstance(found, CostTable):
        return [list(costs.items()) for costs in found.costs.values()]
    return [list(plan.options.values()) for plan in found.plans], found.losses
