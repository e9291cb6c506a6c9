"""The conformance batteries: what every pass and every target must meet, built in or a third party's.

from onnxmpq.testing import check_pass, check_target
check_pass(FuseSilu(), model)        # raises AssertionError with what is wrong
check_target(DSP)
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.activations.calibrate import calibrate
from onnxmpq.activations.policies import POLICIES
from onnxmpq.data import InputSpec, synthetic_data
from onnxmpq.engine import Array, Runtime
from onnxmpq.lower import Activations, lower
from onnxmpq.metrics import signal_to_noise
from onnxmpq.model.modelfile import import_graph
from onnxmpq.model.requirements import described
from onnxmpq.plan import Plan
from onnxmpq.prepare import Prepared, prepare
from onnxmpq.spec import QUANTIZED_BITS, Option
from onnxmpq.target import Target
from onnxmpq.verdict.readback import read_weights
from onnxmpq.verdict.rules import broken_rules
from onnxmpq.weights.candidates import Candidates

Kind = Literal["preserving", "exposing", "lowering"]
_KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HEADER = '<ir_version: 8, opset_import: ["": 17]> '
_RUNTIME = Runtime("cpu", threads=1)
_PLAIN = Target("plain", "INT8 under DequantizeLinear", ("int8",), folds=False)

Runs = Callable[[onnx.ModelProto, Mapping[str, Array]], Mapping[str, Array]]


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


def check_target(
    target: Target, model: onnx.ModelProto | None = None, runs: Runs | None = None, *, decibels: float = 100.0
) -> None:
    """Lower a model for a target in every storage, at every width, with float and with int8 activations; check each.

    Checked: the files are valid ONNX, keep the rules that the target's fields state (`broken_rules`), hold the
    plan's codes at the bits that the plan counts, say what they need, and come out the same twice. They run in
    ONNX Runtime, or wherever `runs` (model, feeds -> outputs) runs them, and their outputs agree to `decibels`
    with those of INT8 codes under plain DequantizeLinear in ONNX Runtime, its optimisations off.

    `model` is a float model without free dimensions but the batch (default: a small one with a residual sum,
    a depthwise and a grouped convolution, a pool and a Gemm). Raises AssertionError that names what does not hold.
    """
    for storage in target.storages:
        stored = target.storing(storage)
        for integer in (False, True):
            lowerer = _Lowerer.of(model or _target_model(), stored, integer=integer)
            for bits in QUANTIZED_BITS:
                what = f"{target.name}, {storage}, {bits} bits, {'int8' if integer else 'fp32'} activations"
                try:
                    lowerer.check(bits, runs or run, decibels)
                except Exception as error:
                    raise AssertionError(f"{what}: {error}") from error


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Lowerer:
    """A prepared model, its Q/DQ pairs and candidates, ready to be lowered for a target at any width."""

    target: Target
    prepared: Prepared
    activations: Activations
    candidates: Candidates

    @classmethod
    def of(cls, model: onnx.ModelProto, target: Target, *, integer: bool) -> _Lowerer:
        inputs = [InputSpec(i.name, i.dtype, i.shape) for i in _RUNTIME.session(model).inputs]
        data = synthetic_data(inputs, samples=4, seed=0)
        sample = next(iter(data.batches(1))).feeds
        prepared = prepare(_RUNTIME, model, sample, integer=integer, batchable=False)
        asked = [layer.name for layer in prepared.layers] if integer else []
        placement = POLICIES[target.placement](import_graph(prepared.model), prepared.layers, asked)
        signed = target.signed_activations
        ranges = calibrate(_RUNTIME, prepared.model, placement, data, signed=signed) if integer else {}
        return cls(target, prepared, Activations(placement, ranges), Candidates(prepared.model, "nearest"))

    def check(self, bits: int, runs: Runs, decibels: float) -> None:
        plan = self._plan(bits)
        written = self._lowered(plan, self.target)
        onnx.checker.check_model(written, full_check=True)
        _check(_bytes(self._lowered(plan, self.target)) == _bytes(written), "two files of one plan differ")
        _check(not (faults := broken_rules(written, self.target)), "; ".join(faults))
        self._check_weights(plan, written)
        needed = described(written)
        _check(needed is not None and needed.target == self.target.name, "it does not say its target")
        _check_interface(self.prepared.original.graph, written.graph, "lowering")
        expected = run(self._lowered(plan, _PLAIN), self.prepared.sample)
        for name, value in runs(written, self.prepared.sample).items():
            ratio = signal_to_noise(expected[name], np.asarray(value))
            _check(ratio >= decibels, f"output {name} agrees to {ratio:.1f} dB, wanted {decibels:.1f}")

    def _plan(self, bits: int) -> Plan:
        integer = self.activations.placement.integer_layers
        options = {la.name: Option(bits, 8 if la.name in integer else None) for la in self.prepared.layers}
        return Plan({name: self.target.hold(o, beside_integers=bool(integer)) for name, o in options.items()})

    def _lowered(self, plan: Plan, target: Target) -> onnx.ModelProto:
        if target is _PLAIN:  # the same codes, each in a byte
            plan = Plan({n: dataclasses.replace(o, container_bits=8) for n, o in plan.options.items()})
        return lower(self.prepared, plan, self.candidates, self.activations, target)

    def _check_weights(self, plan: Plan, written: onnx.ModelProto) -> None:
        stored = read_weights(written)
        for layer in self.prepared.layers:
            option, found = plan[layer.name], stored.get(layer.weight)
            _check(found is not None, f"layer {layer.name} holds no codes")
            if found is not None:
                wanted = self.candidates.quantized(layer, option.weight_bits)
                _check(np.array_equal(found.codes, wanted.codes), f"the codes of {layer.name} are others")
                what = f"{layer.name} spends {found.bits} bits a weight, the plan counts {option.stored_bits}"
                _check(found.bits == option.stored_bits, what)


def _target_model() -> onnx.ModelProto:
    """Convolutions (plain, depthwise, grouped, 1x1), a residual sum, a pool and a Gemm, with odd counts."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (8, 3, 3, 3), "depthwise": (8, 1, 3, 3), "grouped": (8, 4, 3, 3), "narrow": (5, 8, 1, 1), "head": (7, 5),
    }  # fmt: skip
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    biases = {f"{n}_bias": rng.normal(0, 0.1, len(w)).astype(np.float32) for n, w in weights.items()}
    return model_of(
        """g (float[N, 3, 9, 9] x) => (float[N, 7] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, stem, stem_bias)        b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], group = 8> (b, depthwise, depthwise_bias)  d = Relu (c)
            e = Conv <pads = [1, 1, 1, 1], group = 2> (d, grouped, grouped_bias)      f = Add (e, b)
            g1 = Relu (f)
            h = Conv (g1, narrow, narrow_bias)  i = Relu (h)
            j = GlobalAveragePool (i)  k = Flatten (j)
            y = Gemm <transB = 1> (k, head, head_bias)
        }""",
        **weights,
        **biases,
    )
