"""The command: parse, call, print; no arithmetic."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.table import EXAMPLES
from onnxmpq.data.input_shapes import parse_shape
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import OnnxmpqError, OptionError
from onnxmpq.metrics.metric import METRICS
from onnxmpq.metrics.output_kinds import WORDS
from onnxmpq.onnx_io.output_file import require_apart, require_writable, write_file
from onnxmpq.present.console import (
    ConsoleObserver,
    show_comparison,
    show_evaluation,
    show_findings,
    show_inspection,
    show_report,
)
from onnxmpq.request import ACTIVATIONS, BUILT_IN_CALIBRATORS, BUILT_IN_METHODS, default_output, protected
from onnxmpq.values.effort import EFFORTS, find_effort
from onnxmpq.values.keep import Keep
from onnxmpq.values.option import FLOATS
from onnxmpq.values.report import to_json
from onnxmpq.values.target import ISAS, STORAGES

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_BROKEN = 3
STDOUT = Path("-")


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A word that becomes a value at the boundary; what does not parse is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


def parse_bits(text: str) -> tuple[int, ...]:
    """`2,3,4,8` as widths. Raises OptionError for anything else."""
    words = text.split(",")
    if not all(
        word.strip() in FLOATS or (word.strip().isdecimal() and 1 <= int(word) <= 8) for word in words
    ):
        raise OptionError(
            f"--bits {text!r} was not understood; write widths from 1 to 8, fp16 or fp32, such as 2,3,4,5,6,8"
        )
    return tuple(FLOATS.get(word.strip()) or int(word) for word in words)


def parse_input(text: str) -> str:
    """A path or reference that is not empty."""
    if not text.strip():
        raise OptionError("an empty path was given; name a file")
    return text


def parse_output(text: str) -> Path:
    """The path of a file to write. Raises OptionError for what names none: nothing, `-` or a folder."""
    if text == "-":
        raise OptionError("nothing is written to standard output; name a file (./- for one of that name)")
    if parse_input(text).endswith(("/", os.sep)):
        raise OptionError(f"{text!r} names a folder; name the file in it")
    return Path(text)


BUDGET = Parsed("budget", Budget.parse)
KEEP = Parsed("glob=bits", Keep.parse)
PREPROCESS = Parsed("preprocess", Preprocess.parse)
SHAPE = Parsed("name=dims", parse_shape)
BITS = Parsed("bits", parse_bits)
FILE = Parsed("path", lambda text: Path(parse_input(text)))
SOURCE = Parsed("path", parse_input)
OUTPUT = Parsed("path", parse_output)
EFFORT = Parsed("|".join(EFFORTS), lambda text: find_effort(text).name)
REPORT = Parsed("path", lambda text: STDOUT if text == "-" else parse_output(text))


class Grouped(click.Command):
    """A command whose help lists its options under titles: `groups` maps each to the names of its parameters."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group."""
        records = {name: p.get_help_record(ctx) for p in self.get_params(ctx) for name in (p.name, *p.opts)}
        for title, names in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records[name]) is not None])


_COMPILE_GROUPS = {
    "What the file may be": ("budgets", "bits", "keep", "activations", "target", "storage", "isa", "output"),
    "Data": ("data", "evaluation", "training", "preprocess", "shapes", "samples"),
    "How it is found": (
        "effort",
        "method",
        "metric",
        "outputs",
        "rounding",
        "calibrator",
        "seed",
        "save_sensitivity",
        "save_plan",
        "plan",
    ),
    "The compile itself": ("provider", "workers", "cluster", "report", "no_verify", "--help"),
}
_COMPILE_EXAMPLES = """\b
Examples:
  onnxmpq compile model.onnx --budget 4bit-avg --data calibration.npz
  onnxmpq compile model.onnx --budget 1.5MB --data images.zip \\
      --preprocess imagenet,resize=256,crop=224
  onnxmpq compile model.onnx --budget drop=0.5% --data my_data.py:batches
  onnxmpq compile model.onnx --budget 4bit-avg --keep 'head/*=8' --target openvino
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="onnxmpq")
def cli() -> None:
    """Compile trained CNNs in ONNX into mixed-precision ONNX models."""


@cli.command("compile", cls=Grouped, groups=_COMPILE_GROUPS, epilog=_COMPILE_EXAMPLES)
@click.argument("model", type=FILE)
@click.option(
    "--budget",
    "budgets",
    type=BUDGET,
    multiple=True,
    help=f"{', '.join(EXAMPLES[:-1])} or {EXAMPLES[-1]}; several hold at once.",
)
@click.option(
    "--data", type=SOURCE, help="Calibration data: .npz, folder or .zip of images, file.py:callable."
)
@click.option(
    "--eval", "evaluation", type=SOURCE, help="Data the verdict is measured on, never used to choose."
)
@click.option(
    "--train-data",
    "training",
    type=SOURCE,
    help="Labelled data for methods that train.  [default: what of --data weights are rounded against]",
)
@click.option(
    "--preprocess", type=PREPROCESS, help="For images, e.g. imagenet,resize=256,crop=224; or a file."
)
@click.option("-o", "--output", type=OUTPUT, help="Written file.  [default: MODEL.mpq.onnx]")
@click.option(
    "--activations",
    type=click.Choice([*ACTIVATIONS]),
    help="auto: int8 where it pays, layer by layer; dynamic: int8 before matrices, no calibration; int16, int4: for targets that have them.  [default: auto with real data, else fp32]",
)
@click.option(
    "--calibrator",
    help=f"Ranges of activations: {', '.join(BUILT_IN_CALIBRATORS)}, file.py:function.  "
    "[default: mean_minmax_3sigma, mse at int4]",
)
@click.option(
    "--rounding",
    type=click.Choice(["compensated", "nearest"]),
    default="compensated",
    help="How weights are rounded.",
)
@click.option(
    "--method",
    default="measured",
    help=f"Sensitivity: {', '.join(BUILT_IN_METHODS)}, file.py:function, or a .json that was saved.",
)
@click.option("--save-sensitivity", type=OUTPUT, help="Save what --method finds, as JSON for --method.")
@click.option("--save-plan", type=OUTPUT, help="Save what every layer was given, as JSON to read and edit.")
@click.option("--plan", type=FILE, help="Give every layer what such a file says; no --budget is needed.")
@click.option(
    "--metric",
    help=f"Loss of function: {', '.join(METRICS)} or file.py:function.  [default: by the outputs]",
)
@click.option(
    "--outputs",
    multiple=True,
    help=f"What an output holds: NAME={'|'.join(WORDS)}.  [default: by graph and values]",
)
@click.option(
    "--bits",
    type=BITS,
    default="2,3,4,5,6,8",
    help="Widths that may be used: 1 to 8, fp16, fp32.",
)
@click.option(
    "--keep", type=KEEP, multiple=True, help="Fix layers: 'head/*=8', 'stem=8/fp32', 'op:Gemm=fp16'."
)
@click.option(
    "--shape", "shapes", type=SHAPE, multiple=True, help="Free dimensions of an input: NAME=1x3x224x224."
)
@click.option("--samples", type=click.IntRange(min=1), default=512, help="Calibration samples.")
@click.option(
    "--effort",
    type=EFFORT,
    metavar="[fast|balanced]",
    default="balanced",
    help="Samples of the stages that take long. All but fast learn from mirror images, too, where the network "
    "sees the same in them.",
)
@click.option(
    "--target",
    default="ort-cpu",
    help="What will run the file: ort-cpu, ort-cpu-tokens, ort-cuda, openvino, tensorrt, qnn, portable, file.py:NAME.",
)
@click.option(
    "--storage",
    type=click.Choice(STORAGES),
    help="How weights lie in the file.  [default: packed where the target reads it, else native]",
)
@click.option(
    "--isa",
    type=click.Choice(list(ISAS)),
    default="any",
    help="CPUs that will run int8 activations; vnni allows 8-bit codes.",
)
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where the compile itself runs.",
)
@click.option(
    "--workers",
    metavar="N|auto",
    help="Round and measure in so many processes; auto: one a GPU, or a core.",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Round and measure on the workers of this Dask scheduler.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option(
    "--report",
    type=REPORT,
    help="Write everything that was measured as JSON; - prints it instead of the table.",
)
@click.option("--json", "as_json", is_flag=True, hidden=True)  # as --report -
@click.option("--no-verify", is_flag=True, help="Do not check, score or time the written file.")
@click.option("--force", is_flag=True, hidden=True)  # the errors that it overrides name it
def compile_command(
    model: Path,
    report: Path | None,
    as_json: bool,
    no_verify: bool,
    shapes: tuple[Any, ...],
    **options: Any,
) -> None:
    """Compile MODEL into a mixed-precision ONNX file that meets every budget."""
    from onnxmpq.api import compile_model

    if report == STDOUT:
        report, as_json = None, True
    inputs = protected(
        model, *(options[name] for name in ("data", "evaluation", "training", "method", "plan"))
    )
    if report is not None:
        require_writable(report, inputs)
        require_apart(
            *filter(
                None,
                (
                    options["output"] or default_output(model),
                    report,
                    options["save_sensitivity"],
                    options["save_plan"],
                ),
            )
        )
    with ConsoleObserver(quiet=as_json) as observer:
        result = compile_model(model, shapes=dict(shapes), verify=not no_verify, observer=observer, **options)
    if report is not None:
        write_file(f"{result.to_json()}\n".encode(), report, protect=[*inputs, Path(result.output)])
    if as_json:
        click.echo(result.to_json())
    else:
        show_report(result)
    if result.quality.is_broken or result.quality.unjudged:
        sys.exit(EXIT_BROKEN)


@cli.command("inspect")
@click.argument("model", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def inspect_command(model: Path, as_json: bool) -> None:
    """List MODEL's layers: what could be quantized, or the plan inside a compiled file."""
    from onnxmpq.inspection import inspect_model

    _tell(inspect_model(model), show_inspection, as_json=as_json)


def _judging(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that run models over data."""
    options = (
        click.option("--preprocess", type=PREPROCESS, help="For images, as for compile."),
        click.option("--samples", type=click.IntRange(min=1), help="Use so many samples.  [default: all]"),
        click.option("--metric", help="As for compile."),
        click.option("--outputs", multiple=True, help="As for compile."),
        click.option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
        click.option("--seed", type=click.IntRange(min=0), default=0),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command("eval")
@click.argument("model", type=FILE)
@click.option(
    "--data",
    type=SOURCE,
    required=True,
    help="Data as for compile: .npz, folder or .zip of images, file.py:callable.",
)
@click.option("--reference", type=FILE, help="The fp32 model to compare with.")
@_judging
def eval_command(model: Path, as_json: bool, **options: Any) -> None:
    """Measure MODEL on data: top-1 with labels, and against a reference its agreement, KL or SQNR, and speed."""
    from onnxmpq.evaluation import evaluate_model

    _tell(evaluate_model(model, **options), show_evaluation, as_json=as_json)


@cli.command("compare")
@click.argument("reference", type=FILE)
@click.argument("models", type=FILE, nargs=-1, required=True)
@click.option("--data", type=SOURCE, required=True, help="Data as for compile.")
@_judging
def compare_command(reference: Path, models: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Put MODELS, of any tool, beside the REFERENCE that they were made of: bytes, quality, speed."""
    from onnxmpq.evaluation import compare_models

    _tell(compare_models(reference, models, **options), show_comparison, as_json=as_json)


@cli.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def doctor_command(as_json: bool) -> None:
    """Tell what this machine and installation can do, and what to do where that is less than it could be."""
    from onnxmpq.doctor import examine

    _tell(examine(), show_findings, as_json=as_json)


def _tell(found: Any, show: Callable[[Any], None], *, as_json: bool) -> None:
    """Print one finding, or a sequence of them."""
    if as_json:
        is_one = is_dataclass(found) and not isinstance(found, type)
        click.echo(to_json(asdict(found) if is_one else [asdict(one) for one in found]))
    else:
        show(found)


def run() -> None:
    """Parse and run: errors of ours become one line and an exit code, never a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.UsageError as error:
        _fail_usage(error)
    except OptionError as error:
        _fail(str(error), EXIT_USAGE)
    except (OnnxmpqError, OSError) as error:  # an OSError of ours or not: the machine's fault, not a bug
        _fail(str(error), EXIT_ERROR)
    except click.Abort:  # what click makes of Ctrl-C
        raise KeyboardInterrupt from None


def _fail_usage(error: click.UsageError) -> NoReturn:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        sys.exit(EXIT_USAGE)
    command = error.ctx.command_path if error.ctx is not None else "onnxmpq"
    _fail(f"{error.format_message()} (see {command} --help)", EXIT_USAGE)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
