"""What the command prints: progress, tables, the verdict. Words only; the numbers come measured."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from onnxmpq.budget import Kind
from onnxmpq.observer import Observer
from onnxmpq.spec import FLOAT_BITS, HALF_BITS

if TYPE_CHECKING:
    from onnxmpq.evaluation import Evaluation
    from onnxmpq.inspection import Inspection
    from onnxmpq.latency import Latency
    from onnxmpq.report import BudgetReport, LayerReport, Report
    from onnxmpq.score import Score

_WIDTH = 110


class ConsoleObserver(Observer):
    """Draws stages as progress bars on stderr, with the time left; notes go above them."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(40),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def stage(self, name: str) -> None:
        self._finish()
        self._task = self._progress.add_task(name, total=1)

    def progress(self, done: int, total: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def _finish(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[-1].total
            self._progress.update(self._task, completed=total)


def show_report(report: Report) -> None:
    """The table per layer, and the verdict under it."""
    console = _console()
    console.print(_layer_table(report))
    for name, reason in report.float_ops.items():
        console.print(f"stays float: {name}: {reason}", highlight=False)
    console.print(_verdict(report))
    if report.is_broken:
        console.print(
            "[bold red]The compiled model lost the function of the original: do not ship it.[/] "
            "Allow more bits, or give calibration data.",
            highlight=False,
        )


def show_inspection(found: Inspection) -> None:
    """The layers of a file."""
    table = Table(
        title=f"{found.path}: opset {found.opset}, {found.file_bytes:,} bytes", title_justify="left"
    )
    for column in ("layer", "op", "shape", "bits", "bytes", "note"):
        table.add_column(column, justify="right" if column in {"bits", "bytes"} else "left")
    for layer in found.layers:
        shape = "x".join(map(str, layer.shape)) if layer.shape != (0,) else "-"
        bits = _bits(layer.weight_bits) if layer.shape != (0,) else "-"
        table.add_row(layer.name, layer.op, shape, bits, f"{layer.stored_bytes:,}", layer.reason or "")
    console = _console()
    console.print(table)
    able = sum(layer.reason is None for layer in found.layers)
    what = "quantized or left in float" if found.is_compiled else "can be quantized"
    console.print(f"{able} of {len(found.layers)} layers {what}", highlight=False)


def show_evaluation(result: Evaluation) -> None:
    """Scores of a model beside its reference's."""
    table = Table(title=f"on {result.data}", title_justify="left")
    for column in ("", "model", "reference"):
        table.add_column(column)
    pairs = zip(_score_rows(result.score), _score_rows(result.reference_score), strict=True)
    for (name, ours), (_, theirs) in pairs:
        table.add_row(name, ours, theirs)
    table.add_row("bytes", f"{result.file_bytes:,}", f"{result.reference_bytes:,}")
    latency = result.latency
    table.add_row("latency, batch 1", f"{latency.model * 1e3:.2f} ms", f"{latency.reference * 1e3:.2f} ms")
    _console().print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _layer_table(report: Report) -> Table:
    table = Table(title=f"{report.output}", title_justify="left")
    right = {"weights", "bits", "acts", "bytes", f"{report.metric} alone"}
    for column in ("layer", "op", "weights", "bits", "acts", "bytes", f"{report.metric} alone", "runs as"):
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for layer in report.layers:
        table.add_row(
            layer.name,
            layer.op,
            f"{layer.params:,}" if layer.params else "-",
            _bits(layer.weight_bits) if layer.params else "-",
            "fp32" if layer.activation_bits is None else str(layer.activation_bits),
            f"{layer.stored_bytes:,}",
            "-" if layer.sensitivity is None else f"{layer.sensitivity:.2g}",
            _runs_as(layer),
        )
    return table


def _runs_as(layer: LayerReport) -> str:
    if layer.kernel is not None:
        return layer.kernel
    return f"float: {layer.reason}" if layer.reason and layer.params else layer.reason or "float"


def _verdict(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "file",
        f"{report.fp32_file_bytes:,} -> {report.file_bytes:,} bytes"
        f" ({report.fp32_file_bytes / report.file_bytes:.2f}x smaller)",
    )
    table.add_row(
        "weights",
        f"{report.average_weight_bits:.3f} bits on average, {report.weight_bytes:,} bytes with scales"
        f" ({report.fp32_weight_bytes / max(report.weight_bytes, 1):.2f}x)",
    )
    for budget in report.budgets:
        table.add_row("budget", f"{budget.asked}: reached {_reached(budget)}")
    if report.metrics:
        table.add_row("judged on", report.evaluated_on)
        for name, value in _compared(report.metrics["fp32"], report.metrics["compiled"]):
            table.add_row(name, value)
    for latency in report.latency:
        table.add_row(f"speed, batch {latency.batch}", _speed(latency))
    seconds = sum(report.seconds.values())
    table.add_row(
        "compile", f"{seconds:.1f} s, peak memory {report.peak_rss_bytes / 1e6:,.0f} MB, opset {report.opset}"
    )
    return table


def _compared(fp32: Score, compiled: Score) -> list[tuple[str, str]]:
    rows = []
    if fp32.top1 is not None and compiled.top1 is not None:
        rows.append(
            (
                "top-1",
                f"{fp32.top1:.2%} -> {compiled.top1:.2%} ({(compiled.top1 - fp32.top1) * 100:+.2f} points)",
            )
        )
    if compiled.agreement is not None:
        rows.append(
            (
                "agreement",
                f"{compiled.agreement:.2%} of {compiled.samples} samples have the fp32 model's class",
            )
        )
    if compiled.kl is not None:
        rows.append(("KL to fp32", f"{compiled.kl:.3g} nats"))
    elif compiled.sqnr is not None:
        rows.append(("SQNR to fp32", f"{compiled.sqnr:.1f} dB"))
    return rows


def _score_rows(score: Score) -> list[tuple[str, str]]:
    return [
        ("top-1", "-" if score.top1 is None else f"{score.top1:.2%}"),
        ("agreement", "-" if score.agreement is None else f"{score.agreement:.2%}"),
        ("KL", "-" if score.kl is None else f"{score.kl:.3g} nats"),
        ("SQNR", "-" if score.sqnr is None else f"{score.sqnr:.1f} dB"),
    ]


def _speed(latency: Latency) -> str:
    faster = "faster" if latency.speedup >= 1 else "slower"
    ratio = max(latency.speedup, 1 / latency.speedup)
    return f"{latency.reference * 1e3:.2f} -> {latency.model * 1e3:.2f} ms ({ratio:.2f}x {faster} here)"


def _reached(budget: BudgetReport) -> str:
    if budget.reached is None:
        return "not measured"
    return {
        Kind.BITS: f"{budget.reached:.3f} bits",
        Kind.FILE: f"{budget.reached:,.0f} bytes",
        Kind.RATIO: f"{budget.reached:.2%} of fp32 ({1 / budget.reached:.2f}x)" if budget.reached else "0",
        Kind.BOPS: f"{budget.reached / 1e9:.4g} GBOPs",
        Kind.DROP: f"{budget.reached:.2%}",
    }[Kind(budget.kind)]


def _bits(bits: int) -> str:
    return {FLOAT_BITS: "fp32", HALF_BITS: "fp16"}.get(bits, str(bits))
