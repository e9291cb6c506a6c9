"""What is asked of a compile: parsed and checked once, before anything is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxmpq.budgets.budget import Budget, needing
from onnxmpq.budgets.kind import Needs
from onnxmpq.calibrate.calibrators import CALIBRATORS, Calibrator, default_calibrator
from onnxmpq.data import DataSource, require_seed
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import OptionError
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.sensitivity.methods import METHODS, Method, gives_path, name_of
from onnxmpq.values.activation_range import CodeType
from onnxmpq.values.arrays import Shape
from onnxmpq.values.effort import Effort
from onnxmpq.values.keep import Keep
from onnxmpq.values.option import FLOAT_BITS, HALF_BITS, QUANTIZED_BITS
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.plan_file import PlanFile
from onnxmpq.values.target import Target, find_target

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
AUTO = "auto"  # each layer's activations in integers of the target's first width, or in float
DYNAMIC = "dynamic"  # int8 of the range that each run has, before matrices
ACTIVATIONS: Mapping[str, int | None] = {
    AUTO: None,
    "int8": 8,
    DYNAMIC: 8,
    "int16": 16,
    "int4": 4,
    "fp32": None,
}
BUILT_IN_CALIBRATORS, BUILT_IN_METHODS = tuple(CALIBRATORS), tuple(METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a compile reads, how, and where its file goes."""

    model: Path
    output: Path
    data: DataSource | None
    evaluation: DataSource | None
    training: DataSource | None
    preprocess: Preprocess | None
    shapes: Mapping[str, Shape]
    samples: int  # of calibration, at most
    method: str = "measured"  # as named: it may be a file
    sensitivity: Path | None = None  # where what the method finds is saved
    plan: Path | None = None  # where the plan is saved

    @property
    def protected(self) -> list[Path]:
        """The files that are never written over."""
        return protected(self.model, self.data, self.evaluation, self.training, self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What the file may be: within every budget, of these widths, the layers that are kept as they are said to be.

    `widths` are in order, 16 and 32 for layers that may stay in float. A `plan` says what every layer is; then there need be no budget.

    Raises OptionError for neither of them, or for a plan and layers that are kept besides.
    """

    budgets: tuple[Budget, ...]
    widths: tuple[int, ...]
    keeps: tuple[Keep, ...] = ()
    plan: PlanFile | None = None

    def __post_init__(self) -> None:
        if self.plan is not None and self.keeps:
            raise OptionError("--plan says what every layer is; change it there, in place of --keep")
        if not self.budgets and self.plan is None:
            raise OptionError("no budget was given; write for example --budget 4bit-avg")

    @property
    def kept(self) -> tuple[Keep, ...]:
        """The layers whose widths are decided."""
        return self.keeps if self.plan is None else self.plan.keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizers:
    """How weights are rounded, and activations held: one of ACTIVATIONS or, as long as no data tell, None.

    `calibrator` chooses the ranges of activations; None for what is best for their width.
    """

    rounding: str = ROUNDINGS[0]
    activations: str | None = None
    calibrator: Calibrator | None = None

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise OptionError(f"rounding {self.rounding!r} is not known; choose {' or '.join(ROUNDINGS)}")
        if self.activations not in (None, *ACTIVATIONS):
            raise OptionError(
                f"activations {self.activations!r} are not known; choose {', '.join(ACTIVATIONS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How widths are found: by which method, in which loss (`choose_metric`), of what outputs, by which draws."""

    method: Method
    effort: Effort
    metric: str | None = None
    outputs: Mapping[str, OutputKind] = field(default_factory=dict)  # what the user says of some
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Run:
    """How the compile itself runs: where, whether the file is checked, scored and timed, and what it goes on in spite of.

    `force` goes on where the data do not fit the model's classes. `workers` (a number, or "auto") or `cluster` (the address
    of a scheduler) do what is measured independently (`onnxmpq.runtime.workers`); this process where neither is given.
    """

    provider: str = "auto"
    verify: bool = True
    force: bool = False
    workers: int | str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user decided about the file and how it is found.

    Raises OptionError for choices that make no sense together.
    """

    constraints: Constraints
    quantizers: Quantizers
    target: Target
    search: Search
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        bits = self.codes.bits
        others = [k for k in self.constraints.keeps if k.option.activation_bits not in (None, bits)]
        if others:
            raise OptionError(
                f"--keep '{others[0]}' beside activations of {bits} bits: a file has quantized activations of one width; "
                f"write /{bits} or /fp32"
            )
        if self.is_timed:
            _require_times(self.target)
            if gives_path(self.search.method):
                raise no_times(self.search.method)

    @property
    def activation_bits(self) -> int | None:
        """Bits of activations, where they are quantized; None where all stay in float."""
        if self.chooses_activations:
            return self.target.activations.bits[0]
        return ACTIVATIONS[self.quantizers.activations or "fp32"]

    @property
    def chooses_activations(self) -> bool:
        """True where it is open which layers compute in integers."""
        return self.quantizers.activations == AUTO

    @property
    def codes(self) -> CodeType:
        """What quantized activations are held in."""
        return self.target.activations.codes(self.activation_bits)

    @property
    def calibrated_by(self) -> Calibrator:
        """What chooses the ranges of quantized activations."""
        return self.quantizers.calibrator or default_calibrator(self.codes.bits)

    @property
    def is_measured(self) -> bool:
        """True where a budget is on what a file does when it runs."""
        return any(budget.is_measured for budget in self.constraints.budgets)

    @property
    def is_timed(self) -> bool:
        """True where a budget is on latency."""
        return bool(needing(self.constraints.budgets, Needs.TIME))

    def decided(self, *, synthetic: bool) -> Request:
        """The same with activations decided: as asked, else in integers where these pay and real data can calibrate them."""
        given = self.quantizers.activations
        if given not in (None, AUTO) or (given == AUTO and not synthetic):
            return self
        # What float costs another consumer, nobody knows here.
        usual = AUTO if self.target.is_onnxruntime else f"int{self.target.activations.bits[0]}"
        activations = "fp32" if synthetic and self.target.weights.beside_floats else usual
        return replace(self, quantizers=replace(self.quantizers, activations=activations))


def no_times(method: Method) -> OptionError:
    """What a latency budget beside a method that finds a path of plans is refused with."""
    return OptionError(
        f"the method {name_of(method)} searches a path of its own, which knows no times; drop the latency budget, or "
        "use a method that gives costs, such as measured"
    )


def _require_times(target: Target) -> None:
    """Refuse a latency budget where ONNX Runtime's times on the CPU, by kernels alone, are not the file's."""
    if target.provider != "cpu":
        raise OptionError(
            f"a latency budget is measured in ONNX Runtime on the CPU, and files for target {target.name} run elsewhere; "
            "use --target ort-cpu, or another budget"
        )
    if target.is_plain:
        raise OptionError(
            f"a latency budget takes all widths to be equally fast, which {target.stored_as} weights are not: most are "
            "dequantized at every run; use --storage packed or int8, or another budget"
        )


def parse_budgets(budgets: Sequence[Budget | str] | Budget | str) -> tuple[Budget, ...]:
    """Budgets as given or as text, several or one. Raises OptionError for text that is none."""
    if isinstance(budgets, str | Budget):
        budgets = [budgets]
    return tuple(b if isinstance(b, Budget) else Budget.parse(b) for b in budgets)


def parse_keeps(keeps: Sequence[Keep | str]) -> tuple[Keep, ...]:
    """Kept layers as given or as text. Raises OptionError for text that is none."""
    return tuple(k if isinstance(k, Keep) else Keep.parse(k) for k in keeps)


def parse_target(name: str, storage: str | None, isa: str, activations: str | None = None) -> Target:
    """The target that stores weights so, on such CPUs, with such activations. Raises OptionError where there is none."""
    target = find_target(name).storing(storage).on(isa)
    if activations == DYNAMIC:
        return target.dynamic()
    if activations in ("fp32", AUTO):
        return target.in_float()
    bits = ACTIVATIONS.get(activations or "fp32")
    return target if bits is None else target.computing(bits)


def parse_widths(bits: Sequence[int], budgets: Sequence[Budget]) -> tuple[int, ...]:
    """The widths in order, float among them where a budget may need it. Raises OptionError for what is no width."""
    if not bits or not {*bits} <= {*QUANTIZED_BITS, HALF_BITS, FLOAT_BITS}:
        raise OptionError(f"widths {list(bits)} cannot all be stored; choose from {list(QUANTIZED_BITS)}")
    # Other budgets seldom gain by float layers, and their files would be slower than they must be.
    may_float = any(budget.is_measured for budget in budgets)
    return tuple(sorted({*bits, *([FLOAT_BITS] if may_float else [])}))


def default_output(model: Path) -> Path:
    """Where the file goes if nothing else is said: `MODEL.mpq.onnx` beside `MODEL.onnx`."""
    return model.parent / f"{model.stem}.mpq.onnx"


def parse_saved(path: Path) -> Path:
    """Where sensitivity is saved. Raises OptionError unless it ends in .json, by which --method knows it."""
    if path.suffix.lower() != ".json":
        raise OptionError(f"--save-sensitivity {path} must end in .json, by which --method knows such a file")
    return path


def planned_activations(plan: PlanFile | None, given: str | None) -> str | None:
    """The activations of a plan, where one is given. Raises OptionError where others are asked for."""
    if plan is None:
        return given
    if given not in (None, plan.activations):
        raise OptionError(f"the plan is for --activations {plan.activations}, and {given} was asked for")
    return plan.activations


def protected(model: Path, *data: DataSource | None) -> list[Path]:
    """The files that a compile reads, data or a method, and must never write over."""
    siblings = [model.parent / f"{model.stem}.{role}.npz" for role in ("calib", "eval")]
    named = [
        str(d).rpartition(":")[0] if ".py:" in str(d) else d for d in data if isinstance(d, str | os.PathLike)
    ]
    return [model, *siblings, *map(Path, named)]
