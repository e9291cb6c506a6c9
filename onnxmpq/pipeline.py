"""The compile, stage by stage: the page to read first.

model -> prepare -> layers -> sensitivity -> costs -> allocate -> plan -> lower -> file -> verify -> report
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from onnxmpq.activations.calibrate import calibrate
from onnxmpq.activations.placement import Placement
from onnxmpq.activations.policies import POLICIES
from onnxmpq.allocation.allocate import check_feasible, forced_choice
from onnxmpq.allocation.choose import choose_plan, rows_of, to_plan
from onnxmpq.allocation.constrain import Options
from onnxmpq.allocation.hold import hold
from onnxmpq.allocation.keep import Keep, options_of
from onnxmpq.budget import Budget, Kind
from onnxmpq.data import Dataset, DataSource
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.engine import Runtime, Session, resolve_runtime
from onnxmpq.errors import ModelError, OnnxmpqError, OptionError
from onnxmpq.evidence import Evidence, gather
from onnxmpq.lower import Activations, lower, planned_opset, prove_opset, without_dead_channels
from onnxmpq.model.modelfile import import_graph, initializers_listed_as_inputs, load_model, written_model
from onnxmpq.model.outfile import require_writable
from onnxmpq.model.shapes import Shape
from onnxmpq.observer import Observer, Stages
from onnxmpq.plan import CostTable, Plan
from onnxmpq.prepare import Prepared, prepare, runnable
from onnxmpq.report import Report
from onnxmpq.sensitivity import METHODS, Method, find_method
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.spec import QUANTIZED_BITS, Option
from onnxmpq.target import Target, find_target
from onnxmpq.verdict.conclude import UNMEASURED, Compiled, report_on
from onnxmpq.verdict.score import check_labels, classifier_output, loss_of_function
from onnxmpq.weights.candidates import ROUNDINGS, Candidates
from onnxmpq.weights.gram import input_moments

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
SELECTION = 0.5  # of the calibration samples judge a loss budget, and measure nothing else
SENSITIVITY_SAMPLES = 128  # a layer's rank among the others settles long before its calibration does


def compile_model(
    model: str | os.PathLike[str],
    budgets: Sequence[Budget | str],
    data: DataSource | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: DataSource | None = None,
    preprocess: Preprocess | None = None,
    activations: str | None = None,
    rounding: str = ROUNDINGS[0],
    method: str = "measured",
    metric: str | None = None,
    bits: Sequence[int] = DEFAULT_BITS,
    keep: Sequence[Keep | str] = (),
    shapes: Mapping[str, Shape] | None = None,
    samples: int = 512,
    target: str = "ort-cpu",
    storage: str | None = None,
    isa: str = "any",
    provider: str = "auto",
    seed: int = 0,
    verify: bool = True,
    force: bool = False,
    observer: Observer | None = None,
) -> Report:
    """Compile a model file into a mixed-precision file that meets every budget, and say what became of it.

    `data` and `evaluation` are what `open_data` takes; `activations` is "int8" or "fp32" (default: int8 with
    real data, fp32 without). The file is written to `output`, by default `MODEL.mpq.onnx` beside the model.

    Raises a subclass of OnnxmpqError; nothing is written then.
    """
    stages = Stages(observer or Observer())
    asked = [b if isinstance(b, Budget) else Budget.parse(b) for b in budgets]
    keeps = [k if isinstance(k, Keep) else Keep.parse(k) for k in keep]
    consumer = find_target(target).storing(storage).on(isa)
    widths = check_choices(asked, bits, activations, rounding)
    measure = find_method(method)
    source = Path(model)

    with stages("load"):
        runtime = resolve_runtime(provider)
        stages.note(f"running on ONNX Runtime's {runtime.provider.upper()} execution provider")
        loaded = load_model(source)
        destination = Path(output) if output is not None else source.with_name(f"{source.stem}.mpq.onnx")
        if loaded.producer_name == "onnxmpq":
            raise ModelError(f"{source} was compiled by onnxmpq already; compile the model it was made from")
        inputs = protected(source, data, evaluation)
        require_writable(destination, inputs)  # rather now than after the work
        listed = initializers_listed_as_inputs(loaded)
        if listed:
            stages.note(
                f"{len(listed)} initializers are listed as graph inputs; in the written file they are not"
            )
        original, session = runnable(runtime, loaded)
        evidence = gather(
            session, source, data, evaluation,
            shapes=shapes or {}, samples=samples, preprocess=preprocess, seed=seed, note=stages.note,
        )  # fmt: skip
        activation_bits = choose_activations(activations, evidence)
        if not consumer.is_onnxruntime:
            stages.note(f"accuracy, kernels and speed are those of ONNX Runtime here, not of {consumer.note}")
    with stages("prepare"):
        prepared = prepare(
            runtime, original, evidence.sample,
            integer=activation_bits is not None, batchable=evidence.batchable, metric=metric,
        )  # fmt: skip
        check_function(asked, prepared, session, evidence, force=force)
        placement, options = placed(
            prepared, options_of(prepared.layers, widths, activation_bits, keeps), consumer, stages
        )
        forced = check_budgets(asked, prepared, options, stages)
    with stages("calibrate"):
        quantized = calibrated(runtime, prepared, placement, consumer, evidence, stages)
        prepared = without_dead_channels(prepared, quantized)
    measuring, selection = divide(evidence, asked, seed)
    with stages("round"):
        candidates = rounded(runtime, prepared, forced or options, measuring, rounding, stages)

    def lowered(plan: Plan) -> onnx.ModelProto:
        return lower(prepared, plan, candidates, quantized, consumer)

    with stages("sensitivity"):
        costs = unmeasured(prepared, options, forced) if forced else cost_table(
            measure, runtime, prepared, options, candidates, measuring, seed, stages
        )  # fmt: skip
    with stages("allocate"):
        plan = choose_plan(
            costs, prepared.layers, options, asked,
            lambda plan: lowered(plan).ByteSize(),
            lambda plan: loss_of_function(
                session, runtime.session(lowered(plan)), selection, prepared.metric, prepared.batch_size
            ),
        )  # fmt: skip
    with stages("write"):
        prove_opset(runtime, prepared, planned_opset(plan, prepared, consumer))
        final = lowered(plan)
    with (
        written_model(final, destination, protect=inputs) as part,
        stages("verify"),
    ):
        compiled = Compiled(
            source, destination, prepared, placement, plan, consumer, costs, evidence, part, loaded.ByteSize()
        )
        return report_on(compiled, asked, candidates, runtime, session, stages, verify=verify)


def protected(source: Path, *data: DataSource | None) -> list[Path]:
    """The files that a compile reads and must never write over."""
    siblings = [source.with_name(f"{source.stem}.{role}.npz") for role in ("calib", "eval")]
    named = [
        str(d).rpartition(":")[0] if ".py:" in str(d) else d for d in data if isinstance(d, str | os.PathLike)
    ]
    return [source, *siblings, *map(Path, named)]


def check_choices(
    budgets: Sequence[Budget], bits: Sequence[int], activations: str | None, rounding: str
) -> tuple[int, ...]:
    """The widths in order. Raises OptionError for choices that make no sense together."""
    if not budgets:
        raise OptionError("no budget was given; write for example --budget 4bit-avg")
    if rounding not in ROUNDINGS:
        raise OptionError(f"rounding {rounding!r} is not known; choose {' or '.join(ROUNDINGS)}")
    if activations not in (None, "int8", "fp32"):
        raise OptionError(f"activations {activations!r} are not known; choose int8 or fp32")
    if not bits or not {*bits} <= {*QUANTIZED_BITS}:
        raise OptionError(f"widths {list(bits)} cannot all be stored; choose from {list(QUANTIZED_BITS)}")
    return tuple(sorted(set(bits)))


def choose_activations(activations: str | None, evidence: Evidence) -> int | None:
    """Bits of activations: 8 where asked, or where real data can calibrate them; None for float."""
    wants_int8 = activations == "int8" or (activations is None and not evidence.calibration.synthetic)
    return 8 if wants_int8 else None


def check_function(
    budgets: Sequence[Budget], prepared: Prepared, session: Session, evidence: Evidence, *, force: bool
) -> None:
    """Raise where a budget asks for what the model has not, or the data do not fit the model's classes."""
    drop = next((b for b in budgets if b.kind is Kind.DROP), None)
    if drop is not None and classifier_output(prepared.metric) is None:
        raise OptionError(f"budget {drop} limits the loss of top-1 classes, but this model is no classifier")
    for data in () if force else (evidence.evaluation, evidence.calibration):
        check_labels(session, data, prepared.metric, prepared.batch_size)


def check_budgets(
    budgets: Sequence[Budget], prepared: Prepared, options: Options, stages: Stages
) -> Options | None:
    """The options of the only sensible plan, whatever the layers' costs; None where the budgets leave a choice.

    Raises InfeasibleError where no plan meets a budget that is a sum over layers.
    """
    rows = rows_of([b for b in budgets if b.kind is not Kind.FILE], prepared.layers, options, 0.0)
    check_feasible(rows)
    if any(b.kind in (Kind.FILE, Kind.DROP) for b in budgets):
        return None  # not known before the file is written or the loss is measured
    choice = forced_choice([[0.0] * len(options[layer.name]) for layer in prepared.layers], rows)
    if choice is None:
        return None
    if any(len(choices) > 1 for choices in options.values()):
        stages.note("sensitivity is not measured: the budget leaves one sensible plan only")
    return {name: (option,) for name, option in to_plan(prepared.layers, options, choice).options.items()}


def placed(prepared: Prepared, options: Options, target: Target, stages: Stages) -> tuple[Placement, Options]:
    """Where Q/DQ pairs go, and the options as they then really are.

    Float where there is no integer kernel; and as wide as what the target stores them in.
    """
    asked = [name for name, choices in options.items() if choices[0].activation_bits is not None]
    placement = POLICIES[target.placement](import_graph(prepared.model), prepared.layers, asked)
    integer = set(placement.integer_layers)
    computed = {
        name: choices if name in integer else tuple(Option(o.weight_bits) for o in choices)
        for name, choices in options.items()
    }
    # A plain file does not tell a float layer beside quantized activations from an integer one.
    held, changes = hold(computed, target, beside_integers=target.is_plain and bool(placement.tensors))
    for change in changes:
        stages.note(change)
    return placement, held


def calibrated(
    runtime: Runtime,
    prepared: Prepared,
    placement: Placement,
    target: Target,
    evidence: Evidence,
    stages: Stages,
) -> Activations:
    """The range of each tensor that gets a Q/DQ pair, over the calibration data."""
    if not placement.tensors:
        return Activations(placement, {})
    ranges = calibrate(
        runtime, prepared.model, placement, evidence.calibration,
        signed=target.signed_activations, progress=stages.observer.progress,
    )  # fmt: skip
    return Activations(placement, ranges)


def rounded(
    runtime: Runtime, prepared: Prepared, options: Options, data: Dataset, rounding: str, stages: Stages
) -> Candidates:
    """Every layer at every width it may take, rounded against the moments of its inputs."""
    candidates = Candidates(prepared.model, rounding)
    if rounding == "nearest":
        return candidates
    widths = {name: [o.weight_bits for o in choices if o.is_quantized] for name, choices in options.items()}
    layers = [layer for layer in prepared.layers if widths[layer.name]]
    found = input_moments(
        runtime, prepared.model, layers, data, prepared.batch_size, stages.observer.progress
    )
    for layer, moments in found:
        candidates.fit(layer, moments, widths[layer.name])
    return candidates


def divide(evidence: Evidence, budgets: Sequence[Budget], seed: int) -> tuple[Dataset, Dataset]:
    """(samples that rounding and sensitivity see, samples that judge a loss budget): disjoint where there is one."""
    data = evidence.calibration
    if not any(b.kind is Kind.DROP for b in budgets):
        return data, data
    return data.split(SELECTION, seed)


def cost_table(
    measure: Method,
    runtime: Runtime,
    prepared: Prepared,
    options: Options,
    candidates: Candidates,
    data: Dataset,
    seed: int,
    stages: Stages,
) -> CostTable:
    """The cost of every option of every layer, measured where a layer has a choice."""
    if data.count > SENSITIVITY_SAMPLES:
        data = data.split(SENSITIVITY_SAMPLES / data.count, seed)[1]
        stages.note(f"sensitivity is measured on {data.count} of the calibration samples")
    probe = Probe(
        prepared.model, prepared.layers, {n: tuple(o) for n, o in options.items() if len(o) > 1},
        candidates.constants, data, prepared.metric, runtime, prepared.traced, prepared.batch_size, seed,
        stages.observer.progress,
    )  # fmt: skip
    try:
        measured = measure(probe)
    except OnnxmpqError:
        raise
    except Exception as error:
        if measure in METHODS.values():
            raise
        raise OptionError(f"the method {measure.__name__} failed: {type(error).__name__}: {error}") from error
    if not isinstance(measured, CostTable):
        raise OptionError(
            f"the method {measure.__name__} gave a {type(measured).__name__}; wanted a CostTable"
        )
    flat = {name: dict.fromkeys(choices, 0.0) for name, choices in options.items()}
    return replace(measured, costs={**flat, **measured.costs})


def unmeasured(prepared: Prepared, options: Options, forced: Options) -> CostTable:
    """A table under which the forced options cost nothing and all others something."""
    costs = {name: {o: float(o not in forced[name]) for o in choices} for name, choices in options.items()}
    return CostTable(costs, prepared.metric.name, UNMEASURED, 0)
