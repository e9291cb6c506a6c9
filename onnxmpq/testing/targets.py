"""The battery for targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx

from onnxmpq.calibrate.measure_ranges import calibrate
from onnxmpq.context.prepared import Activations, Prepared
from onnxmpq.data import synthetic_data
from onnxmpq.lower.lower_plan import lower
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.normalize.prepare import prepare
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place import POLICIES
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.requirements import described
from onnxmpq.testing.models import RUNTIME, check, check_interface, model_of, run, serialized
from onnxmpq.values.arrays import Array
from onnxmpq.values.option import QUANTIZED_BITS, Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Target, WeightRules
from onnxmpq.verify.rules import broken_rules
from onnxmpq.verify.verify_file import check_weights

_PLAIN = Target("plain", "INT8 under DequantizeLinear", WeightRules(("int8",), folds=False))

Runs = Callable[[onnx.ModelProto, Mapping[str, Array]], Mapping[str, Array]]


def check_target(
    target: Target, model: onnx.ModelProto | None = None, runs: Runs | None = None, *, decibels: float = 100.0
) -> None:
    """Lower a model for a target in every storage, at every width, with float activations, where it takes these, and with quantized ones.

    Checked: the files are valid ONNX, keep the rules that the target's fields state (`broken_rules`), hold the
    plan's codes at the bits that the plan counts, say what they need, and come out the same twice. They run in
    ONNX Runtime, or wherever `runs` (model, feeds -> outputs) runs them, and their outputs agree to `decibels`
    with those of INT8 codes under plain DequantizeLinear in ONNX Runtime, its optimisations off.

    `model` is a float model without free dimensions but the batch (default: a small one with a residual sum,
    a depthwise and a grouped convolution, a pool and a Gemm). Raises AssertionError that names what does not hold.
    """
    for storage in target.weights.storages:
        stored = target.storing(storage)
        floats = (None,) if target.weights.beside_floats else ()
        for acts in (*floats, *target.activations.bits):
            computing = stored.computing(acts) if acts else stored
            lowerer = _Lowerer.of(model or _target_model(), computing, acts)
            for bits in QUANTIZED_BITS:
                what = (
                    f"{target.name}, {storage}, {bits} bits, {f'int{acts}' if acts else 'fp32'} activations"
                )
                try:
                    lowerer.check(bits, runs or run, decibels)
                except Exception as error:
                    raise AssertionError(f"{what}: {error}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class _Lowerer:
    """A prepared model, its Q/DQ pairs and candidates, ready to be lowered for a target at any width."""

    target: Target
    prepared: Prepared
    acts: int | None
    activations: Activations
    candidates: Candidates

    @classmethod
    def of(cls, model: onnx.ModelProto, target: Target, acts: int | None) -> _Lowerer:
        data = synthetic_data(RUNTIME.session(model).inputs, samples=4, seed=0)
        sample = next(iter(data.batches(1))).feeds
        prepared = prepare(RUNTIME, model, sample, integer=acts is not None, batchable=False)
        asked = [layer.name for layer in prepared.layers] if acts else []
        placement = POLICIES[target.activations.placement](
            import_graph(prepared.model), prepared.layers, asked
        )
        codes = target.activations.codes(acts)
        ranges = calibrate(RUNTIME, prepared.model, placement, data, codes=codes) if acts else {}
        candidates = Candidates(prepared.model, "nearest", target.grids)
        activations = Activations(placement, ranges, target.activations.placement)
        return cls(target, prepared, acts, activations, candidates)

    def check(self, bits: int, runs: Runs, decibels: float) -> None:
        plan = self._plan(bits)
        written = self._lowered(plan, self.target)
        onnx.checker.check_model(written, full_check=True)
        check(
            serialized(self._lowered(plan, self.target)) == serialized(written),
            "two files of one plan differ",
        )
        check(not (faults := broken_rules(written, self.target)), "; ".join(faults))
        check_weights(written, self.prepared, plan, self.candidates)
        needed = described(written)
        check(needed is not None and needed.target == self.target.name, "it does not say its target")
        check_interface(self.prepared.original.graph, written.graph, "lowering")
        expected = run(self._lowered(plan, _PLAIN), self.prepared.sample)
        for name, value in runs(written, self.prepared.sample).items():
            ratio = signal_to_noise(expected[name], np.asarray(value))
            check(ratio >= decibels, f"output {name} agrees to {ratio:.1f} dB, wanted {decibels:.1f}")

    def _plan(self, bits: int) -> Plan:
        integer = self.activations.placement.integer_layers
        options = {
            la.name: Option(bits, self.acts if la.name in integer else None) for la in self.prepared.layers
        }
        return Plan(
            {name: self.target.legalize(o, beside_integers=bool(integer)) for name, o in options.items()}
        )

    def _lowered(self, plan: Plan, target: Target) -> onnx.ModelProto:
        if target is _PLAIN:  # the same codes, each in a byte
            plan = Plan({n: dataclasses.replace(o, container_bits=8) for n, o in plan.options.items()})
        return lower(self.prepared, plan, self.candidates, self.activations, target)


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
