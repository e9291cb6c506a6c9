"""The last stage: is the written file what it should be, and what did it cost? -> Report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.kind import Outcome
from onnxmpq.context.prepared import Prepared
from onnxmpq.data.evidence import Evidence
from onnxmpq.errors import DataError, VerifyError
from onnxmpq.metrics.latency import measure_latency
from onnxmpq.metrics.score import compare
from onnxmpq.normalize.other_weights import other_weights
from onnxmpq.observer import Stages
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.requirements import requirements
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import UNMEASURED, CostTable, Sensitivity
from onnxmpq.values.group import Unit
from onnxmpq.values.latency import Latency
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan, average_bits, stored_bytes, weight_bytes
from onnxmpq.values.report import (
    BudgetReport,
    LayerReport,
    QualityReport,
    Report,
    RunReport,
    SearchReport,
    SensitivityReport,
    SizeReport,
    SpeedReport,
)  # fmt: skip
from onnxmpq.values.score import Score
from onnxmpq.values.target import ISAS, Target
from onnxmpq.verify.cause import Looked, cause_of_loss
from onnxmpq.verify.kernels import integer_kernels
from onnxmpq.verify.lost import lost_outputs
from onnxmpq.verify.machine import peak_rss, processor, versions
from onnxmpq.verify.verify_file import verify_file

_LEAST_SPEEDUP = 1.02  # less is within what two measurements differ by


@dataclass(frozen=True)
class Compiled:
    """A file that was written, and what led to it."""

    source: Path
    destination: Path
    prepared: Prepared
    units: tuple[Unit, ...]  # what the file stores apart: one for each layer of the prepared model
    placement: Placement
    plan: Plan
    target: Target
    costs: Sensitivity
    evidence: Evidence
    file: Path  # where the bytes lie until they are checked
    effort: str
    search: SearchReport | None
    source_bytes: int  # with external data


def report_on(
    compiled: Compiled,
    budgets: Sequence[Budget],
    candidates: Candidates,
    runtime: Runtime,
    reference: Session,
    stages: Stages,
    *,
    verify: bool,
) -> Report:
    """Verify the file (unless told not to), score it, time it, and write down everything.

    Raises VerifyError where the file is not what the plan says.
    """
    written = onnx.load(compiled.file)
    seen = _verified(compiled, written, candidates, runtime, reference) if verify else _Seen()
    size = _size(compiled)
    outcome = Outcome(
        compiled.units, compiled.plan, size.file_bytes, seen.scores, next(iter(seen.latency), None)
    )
    layers = zip(compiled.prepared.layers, compiled.units, strict=True)
    return Report(
        model=str(compiled.source),
        output=str(compiled.destination),
        size=size,
        budgets=tuple(budget_report(budget, outcome) for budget in budgets),
        layers=tuple(_layer(layer, unit, compiled, seen.kernels) for layer, unit in layers),
        quality=_quality(compiled, seen),
        speed=_speed(compiled, seen),
        requirements=requirements(written, compiled.target),
        sensitivity=_sensitivity(compiled),
        run=_run(compiled, runtime, stages),
    )


@dataclass(frozen=True)
class _Seen:
    """What running the file showed; nothing where it was not run."""

    scores: Mapping[str, Score] = field(default_factory=dict)
    latency: tuple[Latency, ...] = ()
    kernels: Mapping[str, str] | None = None
    lost: tuple[str, ...] = ()
    cause: str | None = None
    unjudged: str | None = None


def _verified(
    compiled: Compiled, written: onnx.ModelProto, candidates: Candidates, runtime: Runtime, reference: Session
) -> _Seen:
    """Check the file, then score it and time it."""
    prepared, data = compiled.prepared, compiled.evidence.evaluation
    session = verify_file(
        compiled.file, written, prepared, compiled.plan, candidates, compiled.target, runtime
    )
    try:
        before, after = compare(reference, session, data, prepared.metric, prepared.batch_size)
    except DataError as error:  # data may be gone since they were first read; the work is not
        return _Seen(unjudged=str(error))
    sizes = dict.fromkeys([1, prepared.batch_size])
    times = (measure_latency(reference, session, _repeat(prepared.sample, size), size) for size in sizes)
    lost = lost_outputs(after, real=not compiled.evidence.evaluation.synthetic)
    return _Seen(
        {"fp32": before, "compiled": after},
        tuple(times),
        _kernels(compiled, written, runtime),
        lost,
        _cause(compiled, written, runtime, reference) if lost else None,
    )


def _cause(compiled: Compiled, written: onnx.ModelProto, runtime: Runtime, reference: Session) -> str:
    """Whether weights or activations did it, which, and what to type next."""
    evidence, prepared = compiled.evidence, compiled.prepared
    looked = Looked(reference, evidence.evaluation, prepared.metric, prepared.batch_size)
    return cause_of_loss(written, prepared, compiled.plan, compiled.costs, runtime, looked)


def _size(compiled: Compiled) -> SizeReport:
    return SizeReport(
        average_weight_bits=average_bits(compiled.units, compiled.plan),
        weight_bytes=weight_bytes(compiled.units, compiled.plan),
        fp32_weight_bytes=4 * sum(layer.params for layer in compiled.prepared.layers),
        file_bytes=compiled.file.stat().st_size,
        fp32_file_bytes=compiled.source_bytes,
        other_weights=other_weights(compiled.prepared.model, {la.weight for la in compiled.prepared.layers}),
    )


def _quality(compiled: Compiled, seen: _Seen) -> QualityReport:
    return QualityReport(
        metrics=seen.scores,
        evaluated_on=compiled.evidence.judged_on,
        cpus=valid_cpus(compiled.plan, compiled.target),
        is_broken=bool(seen.lost),
        lost=seen.lost,
        cause=seen.cause,
        unjudged=seen.unjudged,
    )


def _speed(compiled: Compiled, seen: _Seen) -> SpeedReport:
    return SpeedReport(
        latency=seen.latency,
        is_faster=any(t.speedup >= _LEAST_SPEEDUP for t in seen.latency) if seen.latency else None,
        processor=processor(),
        dequantizes=compiled.target.is_plain,
        float_ops=dict(compiled.placement.float_ops),
    )


def _sensitivity(compiled: Compiled) -> SensitivityReport:
    return SensitivityReport(
        method=compiled.costs.method,
        evaluations=compiled.costs.evaluations,
        samples=compiled.costs.samples,
        unit=compiled.costs.metric,
        metric=compiled.prepared.metric.name,
        effort=compiled.effort,
        search=compiled.search,
    )


def _run(compiled: Compiled, runtime: Runtime, stages: Stages) -> RunReport:
    return RunReport(
        provider=runtime.provider,
        calibration=compiled.evidence.calibration.description,
        notes=tuple(stages.notes),
        seconds=stages.seconds,
        peak_rss_bytes=peak_rss(),
        versions=versions(),
    )


def _repeat(sample: Mapping[str, Array], count: int) -> dict[str, Array]:
    return dict(sample) if count == 1 else {n: np.concatenate([v] * count) for n, v in sample.items()}


def _kernels(compiled: Compiled, written: onnx.ModelProto, runtime: Runtime) -> dict[str, str] | None:
    """The integer kernel of each layer that has one, off the graph that the CPU provider made of the file."""
    if runtime.provider != "cpu":
        return None
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        runtime.session(compiled.file, save_optimized=optimized)
        return integer_kernels(written, onnx.load(optimized), compiled.prepared.layers)


def valid_cpus(plan: Plan, target: Target) -> str:
    """On which CPUs the accuracy that was measured here holds, in words: "any", or which of them."""
    full = sum(o.activation_bits == 8 and o.weight_bits > ISAS["any"] for o in plan.options.values())
    if not full or target.activations.signed:
        return "any"
    return (
        f"those with VNNI, and ARM: on x86 without it the sums of {full} layers with 8-bit codes saturate; "
        "a file for --target ort-cpu without --isa vnni is right everywhere"
    )


def budget_report(budget: Budget, outcome: Outcome) -> BudgetReport:
    """What was reached of a budget. Raises VerifyError where one that is counted does not hold."""
    reached = budget.reached(outcome)
    met = None if reached is None else budget.allows(reached)
    if met is False and not budget.is_measured:
        raise VerifyError(
            f"the written file does not hold budget {budget}: it reached {reached:,.6g}; this is a fault of onnxmpq: "
            "please report it with the model, and ask for a little less meanwhile"
        )
    return BudgetReport(str(budget), str(budget.kind), budget.limit, reached, met)


def _layer(layer: Layer, unit: Unit, compiled: Compiled, kernels: Mapping[str, str] | None) -> LayerReport:
    option = compiled.plan[layer.name]
    return LayerReport(
        name=layer.name,
        op=layer.op,
        params=layer.params,
        weight_bits=option.weight_bits,
        activation_bits=option.activation_bits,
        stored_bytes=stored_bytes(unit, option),
        sensitivity=cost_alone(compiled.costs, layer, option),
        kernel=None if kernels is None else kernels.get(layer.name),
        reason=layer.reason or _why_float(layer, compiled, kernels),
        container_bits=option.container_bits,
    )


def cost_alone(found: Sensitivity, layer: Layer, option: Option) -> float | None:
    """What a layer's width costs alone; a path knows no such thing, and one option was not measured."""
    if not isinstance(found, CostTable) or found.method == UNMEASURED or len(found.costs[layer.name]) == 1:
        return None
    return found.costs[layer.name][option]


def _why_float(layer: Layer, compiled: Compiled, kernels: Mapping[str, str] | None) -> str | None:
    """Why a layer that was to compute in integers does not, as far as it was looked at; None where it does."""
    if not compiled.placement.quantizes or layer.name in (kernels or {}):
        return None
    offered = compiled.costs.costs.get(layer.name, {}) if isinstance(compiled.costs, CostTable) else {}
    bits = compiled.plan[layer.name].activation_bits
    if bits is None and any(o.activation_bits for o in offered):
        return "the better choice under the budgets"
    unseen = None if kernels is None else "ONNX Runtime did not fuse it into an integer kernel"
    if bits not in (None, 8):
        unseen = f"ONNX Runtime has no integer kernels for {bits}-bit activations"
    return compiled.placement.float_layers.get(layer.name) or unseen
