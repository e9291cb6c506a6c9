"""The compile, stage by stage: the page to read first.

model -> prepare -> layers -> sensitivity -> costs -> allocate -> plan -> lower -> file -> verify -> report
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from onnxmpq.activations.calibrate import calibrate
from onnxmpq.activations.placement import Placement
from onnxmpq.activations.policies import POLICIES
from onnxmpq.activations.ranges import ActivationRange
from onnxmpq.allocation.allocate import check_feasible
from onnxmpq.allocation.choose import (
    FileSize,
    choose_plan,
    file_fits,
    forced_plan,
    least_rows,
    rows_of,
    single,
)
from onnxmpq.allocation.constrain import MEASURED, Options, weight_bytes
from onnxmpq.allocation.follow import follow
from onnxmpq.allocation.hold import hold
from onnxmpq.allocation.improve import Search, improve
from onnxmpq.allocation.keep import Keep, looser_options, options_of, overridden
from onnxmpq.allocation.timed import TimeTable, is_timed, time_row, within_time
from onnxmpq.budget import Budget, Kind
from onnxmpq.data import Dataset, DataSource
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.discover import layer_names
from onnxmpq.effort import Effort, find_effort
from onnxmpq.engine import Runtime, Session, resolve_runtime
from onnxmpq.errors import DataError, ModelError, OnnxmpqError, OptionError
from onnxmpq.evidence import Evidence, gather
from onnxmpq.grouping import grouped, with_units
from onnxmpq.joint import Joint
from onnxmpq.layer_times import LayerTimes, layer_times
from onnxmpq.lower import Activations, lower, planned_opset, prove_opset, simulate, without_dead_channels
from onnxmpq.metrics import classifier_output
from onnxmpq.model.modelfile import import_graph, initializers_listed_as_inputs, load_model, written_model
from onnxmpq.model.outfile import require_writable
from onnxmpq.model.shapes import Shape
from onnxmpq.observer import Observer, Stages
from onnxmpq.plan import CostTable, Plan, Sensitivity, Trajectory
from onnxmpq.prepare import Prepared, prepare, runnable
from onnxmpq.report import Report, SearchReport
from onnxmpq.sensitivity import METHODS, Method, find_method
from onnxmpq.sensitivity.noise import activation_losses, with_noise
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.spec import FLOAT_BITS, HALF_BITS, QUANTIZED_BITS, Layer, Option
from onnxmpq.target import Target, find_target
from onnxmpq.verdict.conclude import UNMEASURED, Compiled, report_on
from onnxmpq.verdict.latency import slowdown
from onnxmpq.verdict.score import check_labels, loss_of_function
from onnxmpq.weights.candidates import ROUNDINGS, Candidates
from onnxmpq.weights.gram import input_moments
from onnxmpq.weights.halves import check_halves
from onnxmpq.weights.settle import Settler, settled

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
SELECTION = 0.5  # of the calibration samples judge a loss budget, and measure nothing else
LEAST_HELD = 32  # fewer samples judge nothing


def compile_model(  # noqa: C901, PLR0915
    model: str | os.PathLike[str],
    budgets: Sequence[Budget | str],
    data: DataSource | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: DataSource | None = None,
    training: DataSource | None = None,
    preprocess: Preprocess | None = None,
    activations: str | None = None,
    rounding: str = ROUNDINGS[0],
    method: str = "measured",
    metric: str | None = None,
    bits: Sequence[int] = DEFAULT_BITS,
    keep: Sequence[Keep | str] = (),
    shapes: Mapping[str, Shape] | None = None,
    samples: int = 512,
    effort: str = "balanced",
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

    `data`, `evaluation` and `training` are what `open_data` takes; the last is for methods that train, by default
    `data`. `activations` is "int8" or "fp32" (default: int8 with real data, fp32 without). The file is written to
    `output`, by default `MODEL.mpq.onnx` beside the model.

    Raises a subclass of OnnxmpqError; nothing is written then.
    """
    stages = Stages(observer or Observer())
    asked = [b if isinstance(b, Budget) else Budget.parse(b) for b in budgets]
    keeps = [k if isinstance(k, Keep) else Keep.parse(k) for k in keep]
    consumer = find_target(target).storing(storage).on(isa)
    widths = check_choices(asked, bits, activations, rounding)
    measure, level = find_method(method), find_effort(effort)
    source = Path(model)

    with stages("load"):
        runtime = resolve_runtime(provider)
        stages.note(f"running on ONNX Runtime's {runtime.provider.upper()} execution provider")
        loaded = load_model(source)
        destination = Path(output) if output is not None else default_output(source)
        if loaded.producer_name == "onnxmpq":
            raise ModelError(f"{source} was compiled by onnxmpq already; compile the model it was made from")
        inputs = protected(source, data, evaluation, training)
        require_writable(destination, inputs)  # rather now than after the work
        listed = initializers_listed_as_inputs(loaded)
        if listed:
            stages.note(
                f"{len(listed)} initializers are listed as graph inputs; in the written file they are not"
            )
        original, session = runnable(runtime, loaded)
        evidence = gather(
            session, source, data, evaluation,
            training=training, shapes=shapes or {}, samples=samples, preprocess=preprocess, seed=seed,
            note=stages.note,
        )  # fmt: skip
        activation_bits = choose_activations(activations, evidence)
        if not consumer.is_onnxruntime:
            stages.note(f"accuracy, kernels and speed are those of ONNX Runtime here, not of {consumer.note}")
    with stages("prepare"):
        prepared = prepare(
            runtime, original, evidence.sample,
            integer=activation_bits is not None, batchable=evidence.batchable, metric=metric,
            samples=evidence.samples_a_run,
        )  # fmt: skip
        check_function(asked, prepared, session, evidence, force=force)
        placement, options = placed(
            prepared, options_of(prepared.layers, widths, activation_bits, keeps), consumer, stages.note
        )
        check_options(asked, prepared, options, keeps, stages)
        looser = partial(loosened, prepared, widths, activation_bits, keeps, consumer)
        check_budgets(asked, prepared, options, looser(), None)
    with stages("calibrate"):
        quantized, options = calibrated(runtime, prepared, placement, options, consumer, evidence, stages)
        prepared = without_dead_channels(prepared, quantized)
        forced = forced_options(asked, prepared, options, None, stages)
    shares = divide(evidence.calibration, asked, level, seed)
    with stages("round"):
        candidates = rounded(runtime, prepared, forced or options, shares.rounding, rounding, stages)

    units: tuple[Layer, ...] = ()

    def lowered(plan: Plan) -> onnx.ModelProto:
        split, parts, merged = grouped(prepared, candidates, units, plan)
        return lower(split, merged, parts, quantized, consumer)

    def file_size(plan: Plan) -> int:
        return int(lowered(plan).ByteSize())

    with stages("sensitivity"):
        check_budgets(asked, prepared, options, looser(), file_size)
        forced = forced or forced_options(asked, prepared, options, file_size, stages)
        costs: Sensitivity = unmeasured(prepared, options, forced) if forced else sensitivity(
            measure, runtime, prepared, options, candidates, quantized, shares.sensitivity,
            evidence.training or shares.rounding, seed, stages,
        )  # fmt: skip
    if isinstance(costs, Trajectory):
        units = costs.layers
    times = None
    if any(map(is_timed, asked)):
        with stages("time"):
            times = time_table(runtime, prepared, options, lowered)

    def loss(plan: Plan) -> float:
        model = runtime.session(lowered(plan))
        return loss_of_function(session, model, shares.selection, prepared.metric, prepared.batch_size)

    with stages("allocate"):
        if isinstance(costs, Trajectory):
            plan = follow(costs, with_units(prepared, units), asked, file_size, loss)
        else:
            choose = partial(choose_plan, costs, prepared.layers, forced or options, asked, file_size, loss)
            plan = choose() if times is None else within_time(
                choose,
                time_row(asked, prepared.layers, options, times),
                lambda plan: times.fp32 * slowdown(session, runtime.session(lowered(plan)), prepared.sample),
            )  # fmt: skip
    search = None
    chosen = forced is None and measure is METHODS["measured"] and not any(b.kind in MEASURED for b in asked)
    if isinstance(costs, CostTable) and chosen:
        with stages("search"):
            search = searched(
                runtime, prepared, plan, costs, options, asked, candidates, quantized, shares.held, level, stages
            )  # fmt: skip
            plan = search.plan if file_fits(asked, search.plan, file_size) else plan
    prepared, candidates, plan = grouped(prepared, candidates, units, plan)
    if rounding == "compensated" and not units and is_worth_settling(plan, evidence.calibration):
        with stages("settle"):
            candidates = settle(
                runtime, prepared, plan, candidates, quantized, shares.rounding, level, stages
            )
    with stages("write"):
        prove_opset(runtime, prepared, planned_opset(plan, prepared, consumer))
        final = lower(prepared, plan, candidates, quantized, consumer)
    with (
        written_model(final, destination, protect=inputs) as part,
        stages("verify"),
    ):
        compiled = Compiled(
            source, destination, prepared, quantized.of(plan, prepared), plan, consumer, costs, evidence, part,
            effort, told(search), loaded.ByteSize(),
        )  # fmt: skip
        return report_on(compiled, asked, candidates, runtime, session, stages, verify=verify)


def default_output(source: Path) -> Path:
    """Where the file goes if nothing else is said: `MODEL.mpq.onnx` beside `MODEL.onnx`."""
    return source.parent / f"{source.stem}.mpq.onnx"


def protected(source: Path, *data: DataSource | None) -> list[Path]:
    """The files that a compile reads and must never write over."""
    siblings = [source.parent / f"{source.stem}.{role}.npz" for role in ("calib", "eval")]
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
    if not bits or not {*bits} <= {*QUANTIZED_BITS, HALF_BITS, FLOAT_BITS}:
        raise OptionError(f"widths {list(bits)} cannot all be stored; choose from {list(QUANTIZED_BITS)}")
    # Other budgets seldom gain by float layers, and their files would be slower than they must be.
    may_float = any(b.kind in MEASURED for b in budgets)
    return tuple(sorted({*bits, *([FLOAT_BITS] if may_float else [])}))


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


def check_options(
    budgets: Sequence[Budget], prepared: Prepared, options: Options, keeps: Sequence[Keep], stages: Stages
) -> None:
    """Say what was asked in vain or in part, and raise OptionError where half precision cannot hold a layer."""
    uncounted = [layer.name for layer in prepared.layers if layer.params and not layer.macs]
    if uncounted and any(b.kind is Kind.BOPS for b in budgets):
        stages.note(
            f"the BOPs leave out {', '.join(uncounted)}: how often control flow runs a layer is not known, nor "
            "how one works that no sample reaches"
        )
    for keep in overridden(prepared.layers, keeps):
        stages.note(f"--keep '{keep}' changes nothing: later patterns match all that it does")
    halves = [la for la in prepared.layers if options[la.name][0].weight_bits == HALF_BITS < la.float_bits]
    for note in check_halves(prepared.model, halves):
        stages.note(note)


def check_budgets(
    budgets: Sequence[Budget],
    prepared: Prepared,
    options: Options,
    looser: Iterable[tuple[str, Options]],
    file_size: FileSize | None,
) -> None:
    """Raise InfeasibleError where no plan meets a budget, naming what of `looser` would help.

    A loss budget is not looked at: nothing is measured here but bytes, and those only where `file_size` is known.
    """
    rows = partial(least_rows, budgets, prepared.layers, file_size=file_size)
    others = ((words, rows(more)) for words, more in looser)
    check_feasible(rows(options), others)


def forced_options(
    budgets: Sequence[Budget],
    prepared: Prepared,
    options: Options,
    file_size: FileSize | None,
    stages: Stages,
) -> Options | None:
    """The options of the only sensible plan, whatever the layers' costs; None where the budgets leave a choice.

    None too where that takes the bytes of a file, and there is no `file_size` yet.
    """
    plan = forced_plan(budgets, prepared.layers, options, file_size)
    if plan is None:
        return None
    if any(len(choices) > 1 for choices in options.values()):
        stages.note("sensitivity is not measured: the budget leaves one sensible plan only")
    return {name: (option,) for name, option in plan.options.items()}


def placed(
    prepared: Prepared, options: Options, target: Target, note: Callable[[str], None]
) -> tuple[Placement, Options]:
    """Where Q/DQ pairs go, and the options as they then really are.

    Float where there is no integer kernel; and as wide as what the target stores them in.
    """
    asked = [name for name, choices in options.items() if any(o.activation_bits is not None for o in choices)]
    placement = POLICIES[target.placement](import_graph(prepared.model), prepared.layers, asked)
    integer = set(placement.integer_layers)
    computed = {
        name: choices if name in integer else tuple(dict.fromkeys(Option(o.weight_bits) for o in choices))
        for name, choices in options.items()
    }
    # A plain file does not tell a float layer beside quantized activations from an integer one.
    held, changes = hold(computed, target, beside_integers=target.is_plain and bool(placement.tensors))
    for change in changes:
        note(change)
    return placement, held


def loosened(
    prepared: Prepared,
    widths: Sequence[int],
    activation_bits: int | None,
    keeps: Sequence[Keep],
    target: Target,
) -> Iterator[tuple[str, Options]]:
    """What layers could be given if less were fixed, as the target holds it, each with the change in words."""
    for change, options in looser_options(prepared.layers, widths, activation_bits, keeps, QUANTIZED_BITS):
        yield change, placed(prepared, options, target, lambda _: None)[1]


def calibrated(
    runtime: Runtime,
    prepared: Prepared,
    placement: Placement,
    options: Options,
    target: Target,
    evidence: Evidence,
    stages: Stages,
) -> tuple[Activations, Options]:
    """The range of each tensor that gets a Q/DQ pair, over the calibration data, and the options that are left.

    A layer whose input is empty in all samples computes in float. Raises DataError where none can be spared.
    """
    policy = target.placement
    if not placement.tensors:
        return Activations(placement, {}, policy), options
    ranges = calibrate(
        runtime, prepared.model, placement, evidence.calibration,
        signed=target.signed_activations, progress=stages.observer.progress,
    )  # fmt: skip
    unseen = set(placement.tensors) - ranges.keys()
    if not unseen:
        return Activations(placement, ranges, policy), options
    blind = readers_of(prepared, unseen) & set(placement.integer_layers)
    if not blind:
        raise DataError(
            f"tensor {min(unseen)!r} is empty in all calibration samples: give others, or use --activations fp32"
        )
    stages.note(f"no calibration sample reaches {', '.join(sorted(blind))}: activations there stay in float")
    fewer = {n: tuple(Option(o.weight_bits) for o in c) if n in blind else c for n, c in options.items()}
    again = placed(prepared, fewer, target, stages.note)
    return calibrated(runtime, prepared, *again, target, evidence, stages)


def readers_of(prepared: Prepared, tensors: Collection[str]) -> set[str]:
    """The layers that read one of these tensors."""
    nodes = layer_names(import_graph(prepared.model))
    reading = {name for node, name, _ in nodes if any(t.name in tensors for t in node.inputs)}
    return {layer.name for layer in prepared.layers if reading.intersection(layer.nodes)}


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


def searched(
    runtime: Runtime,
    prepared: Prepared,
    plan: Plan,
    costs: CostTable,
    options: Options,
    budgets: Sequence[Budget],
    candidates: Candidates,
    quantized: Activations,
    held: Dataset,
    level: Effort,
    stages: Stages,
) -> Search:
    """The plan, or a better one of its size by the joint network on samples that it was not made from."""
    joint = Joint(
        runtime, prepared.model, simulate(prepared, plan, quantized), prepared.metric, prepared.batch_size
    )
    halves = held.remembered().split(0.5, 0) if held.divides else (held, held)
    most = weight_bytes(prepared.layers, plan)

    def losses(some: Plan) -> tuple[float, float]:
        constants = candidates.under(prepared.layers, some)
        return joint.loss(constants, halves[0]), joint.loss({}, halves[1])

    def meets(some: Plan) -> bool:
        rows = rows_of([b for b in budgets if b.kind is not Kind.FILE], prepared.layers, single(some), 0.0)
        fits = weight_bytes(prepared.layers, some) <= most or not any(b.kind is Kind.FILE for b in budgets)
        return fits and all(row.holds([0] * len(prepared.layers)) for row in rows)

    progress = stages.observer.progress
    found = improve(plan, costs, prepared.layers, options, meets, losses, level.trials, progress)
    if found.is_uniform:
        stages.note("the uniform plan of this size does better on samples held out, and ships")
    return found


def settle(
    runtime: Runtime,
    prepared: Prepared,
    plan: Plan,
    candidates: Candidates,
    quantized: Activations,
    data: Dataset,
    level: Effort,
    stages: Stages,
) -> Candidates:
    """The plan's layers rounded once more, each against what it really gets, if the network is the better for it."""
    network = simulate(prepared, plan, quantized)
    settler = Settler(
        runtime, prepared.model, network, prepared.traced, data, prepared.batch_size, level.settle
    )
    after = settled(settler, prepared.layers, plan, candidates, stages.observer.progress)
    joint = Joint(runtime, prepared.model, network, prepared.metric, prepared.batch_size)
    losses = [joint.loss(some.under(prepared.layers, plan), data) for some in (candidates, after)]
    better = losses[1] < losses[0]
    stages.note(
        f"rounded again behind quantized layers: {prepared.metric.name} {losses[0]:.3g} -> {losses[1]:.3g} on the "
        f"calibration samples{'' if better else ', so the first rounding is kept'}"
    )
    return after if better else candidates


def is_worth_settling(plan: Plan, data: Dataset) -> bool:
    """Seven bits and more lose next to nothing, and what is fitted to noise has learned noise."""
    return not data.synthetic and any(option.weight_bits < 7 for option in plan.options.values())


def told(search: Search | None) -> SearchReport | None:
    """A search as the report has it."""
    if search is None:
        return None
    return SearchReport(search.before, search.after, search.tried, search.kept, search.is_uniform)


@dataclass(frozen=True)
class Shares:
    """Calibration samples by use: all but `selection` are rounded against; `held` never saw a sensitivity."""

    rounding: Dataset
    sensitivity: Dataset
    held: Dataset
    selection: Dataset


def divide(data: Dataset, budgets: Sequence[Budget], level: Effort, seed: int) -> Shares:
    """Who sees which samples; a budget on loss is judged on samples of its own, and few samples serve all uses."""
    judged = any(b.kind is Kind.DROP for b in budgets)
    rounding, selection = data.split(SELECTION, seed) if judged else (data, data)
    if rounding.count <= level.sensitivity or not rounding.divides:
        return Shares(rounding, rounding, rounding, selection)
    held, sensitivity = rounding.split(level.sensitivity / rounding.count, seed)
    return Shares(rounding, sensitivity, held if held.count >= LEAST_HELD else rounding, selection)


def sensitivity(
    measure: Method,
    runtime: Runtime,
    prepared: Prepared,
    options: Options,
    candidates: Candidates,
    quantized: Activations,
    data: Dataset,
    training: Dataset | None,
    seed: int,
    stages: Stages,
) -> Sensitivity:
    """The cost of every option of every layer, or a path through them, measured where a layer has a choice.

    Where that choice is between integers and float, the cost of integers holds that of the rounded input.
    """
    own = {layer.name: layer.float_bits for layer in prepared.layers}
    probe = Probe(
        prepared.model, prepared.layers,
        # A weight left as it is costs nothing, and there is nothing to measure.
        {n: tuple(o for o in opts if o.weight_bits < own[n]) for n, opts in options.items() if len(opts) > 1},
        candidates.constants, data, prepared.metric, runtime, prepared.traced, prepared.batch_size, seed,
        training, stages.observer.progress,
    )  # fmt: skip
    name = getattr(measure, "__name__", type(measure).__name__)
    try:
        found = measure(probe)
    except OnnxmpqError:
        raise
    except Exception as error:
        if measure in METHODS.values():
            raise
        raise OptionError(f"the method {name} failed: {type(error).__name__}: {error}") from error
    if isinstance(found, Trajectory):
        if any(
            o.activation_bits is not None and Option(FLOAT_BITS) in opts
            for opts in options.values()
            for o in opts
        ):
            raise OptionError(
                f"the method {name} searches a path of its own, which knows no times; drop the latency budget"
            )
        fixed = {layer: choices[0] for layer, choices in options.items() if len(choices) == 1}
        return replace(found, plans=tuple(Plan({**fixed, **plan.options}) for plan in found.plans))
    if not isinstance(found, CostTable):
        raise OptionError(
            f"the method {name} gave a {type(found).__name__}; wanted a CostTable or a Trajectory"
        )
    flat = {layer: dict.fromkeys(choices, 0.0) for layer, choices in options.items()}
    table = replace(found, costs={n: {**free, **found.costs.get(n, {})} for n, free in flat.items()})
    read = float_rivals(prepared, options, quantized) if table.metric == prepared.metric.name else {}
    return with_noise(table, activation_losses(probe, read)) if read else table


def float_rivals(
    prepared: Prepared, options: Options, quantized: Activations
) -> dict[str, tuple[str, ActivationRange]]:
    """What each layer that may compute in integers or in float reads: the tensor, and its range as int8."""
    ranges = quantized.placement.shared(quantized.ranges)
    inputs = {node.input[1]: node.input[0] for node in prepared.model.graph.node if len(node.input) > 1}
    free = [la for la in prepared.layers if len({o.activation_bits for o in options[la.name]}) > 1]
    return {layer.name: (inputs[layer.weight], ranges[inputs[layer.weight]]) for layer in free}


def time_table(
    runtime: Runtime, prepared: Prepared, options: Options, lowered: Callable[[Plan], onnx.ModelProto]
) -> TimeTable:
    """Seconds of every option of every layer: those of integer kernels where it has integer activations.

    Raises OptionError on a provider that does not tell what its kernels take.
    """
    if runtime.provider != "cpu":
        raise OptionError(
            f"a latency budget rests on the times of single kernels, which the {runtime.provider.upper()} provider "
            "does not tell; use --provider cpu, or another budget"
        )
    floats = {layer.name: Option(layer.float_bits) for layer in prepared.layers}
    widest = {
        n: max(opts, key=lambda o: (o.activation_bits or 0, o.weight_bits)) for n, opts in options.items()
    }

    def mixed(names: Collection[str]) -> onnx.ModelProto:
        return lowered(Plan({n: floats[n] if n in names else option for n, option in widest.items()}))

    times = layer_times(runtime, prepared.layers, prepared.sample, prepared.original, mixed)
    return TimeTable({name: option_times(times, name, opts) for name, opts in options.items()}, times.fp32)


def option_times(times: LayerTimes, layer: str, options: Sequence[Option]) -> dict[Option, float]:
    """Seconds of each option; a layer that has no integer kernel is in float wherever it was timed."""
    mixed = any(o.activation_bits is not None for o in options)
    floating = times.floating[layer] if mixed else times.integer[layer]
    return {o: floating if o.activation_bits is None else times.integer[layer] for o in options}


def unmeasured(prepared: Prepared, options: Options, forced: Options) -> CostTable:
    """A table under which the forced options cost nothing and all others something."""
    costs = {name: {o: float(o not in forced[name]) for o in choices} for name, choices in options.items()}
    return CostTable(costs, prepared.metric.name, UNMEASURED, 0)
