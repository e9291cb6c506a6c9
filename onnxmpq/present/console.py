"""What the command prints: progress, tables, the verdict. Words only; the numbers come measured."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from onnxmpq.budgets.kind import Kind
from onnxmpq.budgets.table import KINDS
from onnxmpq.observer import Observer
from onnxmpq.present.pace import Pace
from onnxmpq.values.option import HALF_BITS, width_name
from onnxmpq.values.output_kind import OutputKind

if TYPE_CHECKING:
    from onnxmpq.doctor import Finding
    from onnxmpq.evaluation import Evaluation
    from onnxmpq.inspection import Inspection
    from onnxmpq.values.latency import Latency
    from onnxmpq.values.other_weight import OtherWeight
    from onnxmpq.values.report import (
        BudgetReport,
        LayerReport,
        QualityReport,
        Report,
        RunReport,
        SensitivityReport,
        SizeReport,
    )
    from onnxmpq.values.score import OutputScore, Score

_PIPED_WIDTH = 160  # of a table that no terminal limits
# Seconds that need no word, that are worth one, and for which one might want to know of a shorter way.
_SHORT, _LONG, _VERY_LONG = 1.0, 20.0, 300.0
_FEW = 20  # samples: one is five points and more
_NAMED = 3  # of what could be a long list
_NUMBERS = frozenset({"weights", "bits", "acts", "bytes"})  # columns flush right

_TOP1 = "top-1"

Row = tuple[str, str]  # of the verdict: what it is, and what it is like


class ConsoleObserver(Observer):
    """Tells of a compile on stderr: one bar with the time left on a terminal, else a line a stage and now and then one; notes in between."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = _console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._pace = Pace()
        self._spoke = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        if self._console.is_terminal:  # rich before 14.3 prints an empty line where it is none
            self._progress.stop()

    def note(self, text: str) -> None:
        _line(self._console, text)

    def stage(self, name: str) -> None:
        self._finish()
        now = time.perf_counter()
        self._pace.begin(name, now)
        if self._task is None:
            self._task, self._spoke = self._progress.add_task(name, total=None, left=""), now
        self._show(now)

    def expect(self, work: Mapping[str, float], sooner: str) -> None:
        now = time.perf_counter()
        self._pace.work = work
        left = self._pace.left(now)
        if left is not None and left > _LONG:
            hint = f"; {sooner} would be sooner" if left > _VERY_LONG else ""
            _line(self._console, f"about {_spent(left)} ahead{hint}")
        self._spoke = now

    def progress(self, done: int, total: int) -> None:
        self._pace.progress(done, total)
        self._show(time.perf_counter())

    def _show(self, now: float) -> None:
        """The bar, or a line where none is seen and none was written for a while; of the stage alone before all is known."""
        if self._task is None:
            return
        whole = bool(self._pace.work)
        done = self._pace.done() if whole else self._pace.share
        left = self._pace.left(now) if whole else self._pace.left_of_stage(now)
        words = "" if left is None or left < _SHORT else f"about {_spent(left)} ahead"
        self._progress.update(self._task, description=self._pace.stage, completed=done, total=1.0, left=words)
        if not self._console.is_terminal and words and now - self._spoke > _LONG:
            self._spoke = now
            _line(
                self._console,
                f"{self._pace.stage:<12} {done:.0%} of {'all' if whole else 'it'} done, {words}",
            )

    def _finish(self) -> None:
        ended = self._pace.stage
        if not ended:
            return
        now = time.perf_counter()
        seconds = self._pace.end(now)
        if not self._console.is_terminal:
            self._spoke = now
            _line(self._console, f"{ended:<12} {seconds:.1f} s")


def show_report(report: Report, kinds: Sequence[Kind] = KINDS) -> None:
    """The table per layer, and the verdict under it; `kinds` are those that its budgets are of."""
    console, named = _console(), {kind.name: kind for kind in kinds}
    console.print(_layer_table(report))
    for reason, names in _by_reason(report).items():
        _line(console, f"stays float: {_listed(names)}: {reason}")
    _show_rows(console, [("wrote", report.output), *_verdict(report, named)])
    if report.speed.is_faster is False:
        _line(console, _size_only(report), "bold")
    for budget in report.budgets:
        if budget.met is False:
            missed = named[budget.kind].missed
            _line(console, f"MISSED: budget {budget.asked} does not hold {missed}", "bold red")
    if report.quality.unjudged:
        _line(
            console,
            f"NOT JUDGED: the file is written, but the data no longer serve: {report.quality.unjudged}; judge it with "
            "onnxmpq eval --reference",
            "bold red",
        )
    if report.quality.is_broken:
        _line(console, f"LOST: {_lost(report.quality)}", "bold red")


def _lost(quality: QualityReport) -> str:
    cause = f": {quality.cause}" if quality.cause else ""
    return f"this file no longer does what the model did; do not ship it. {'; '.join(quality.lost)}{cause}"


def show_inspection(found: Inspection) -> None:
    """The layers of a file."""
    table = _table("layer", "op", "shape", "bits", "acts", "bytes", "note")
    for layer in found.layers:
        shape = "x".join(map(str, layer.shape)) if layer.shape != (0,) else "-"
        bits = width_name(layer.weight_bits) if layer.shape != (0,) else "-"
        acts = "fp32" if layer.activation_bits is None else str(layer.activation_bits)
        table.add_row(layer.name, layer.op, shape, bits, acts, f"{layer.stored_bytes:,}", layer.reason or "")
    console = _console()
    _line(console, f"{found.path}: opset {found.opset}, {found.file_bytes:,} bytes")
    if found.requirements is not None:
        needed = found.requirements
        _line(console, f"written for {needed.target}, {needed.storage} weights; needs {needed}")
    console.print(table)
    for other in found.others:
        _line(console, f"stays as it is: {other.name}: {other.stored_bytes:,} bytes: {other.reason}")
    _line(console, _summary(found))


def show_findings(findings: Sequence[Finding]) -> None:
    """What `doctor` found, and what to do."""
    console = _console()
    _show_rows(console, [(finding.name, finding.found) for finding in findings])
    for finding in findings:
        if finding.remedy is not None:
            _line(console, f"{finding.name}: {finding.remedy}", "bold")


def show_evaluation(result: Evaluation) -> None:
    """Scores of a model, beside its reference's where it was measured against one."""
    console = _console()
    _line(console, f"{result.model} on {result.data}")
    _show_rows(console, _scored(result))


def show_comparison(results: Sequence[Evaluation]) -> None:
    """Files side by side, a row each, the one that all are compared with first."""
    first, cells = results[0], [dict(_cells(result.score)) for result in results]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    names = _short_paths([first.reference or "", *(result.model for result in results)])
    table = _table("file", "bytes", "size", *columns, "speed", numbers={"bytes", "size", "speed", *columns})
    top1 = first.reference_score.top1
    own = {} if top1 is None else {_TOP1: f"{top1:.2%}"}
    table.add_row(names[0], f"{first.reference_bytes:,}", "", *(own.get(name, "") for name in columns), "")
    for name, result, row in zip(names[1:], results, cells, strict=True):
        size = f"1/{first.reference_bytes / result.file_bytes:.2f}"
        values = (row.get(column, "-") for column in columns)
        table.add_row(name, f"{result.file_bytes:,}", size, *values, f"{result.latency.speedup:.2f}x")
    console = _console()
    _line(console, f"on {first.data}; speed at batch 1, by turns with the first")
    console.print(table)


def _cells(score: Score) -> Iterator[Row]:
    """Each measure of each output in a few characters."""
    if score.top1 is not None:
        yield _TOP1, f"{score.top1:.2%}"
    if score.own is not None:
        yield "your metric", f"{score.own:.4g}"
    for name, output in score.outputs.items():
        of = f" {name}" if len(score.outputs) > 1 else ""
        if output.agreement is not None:
            yield f"same{of}", f"{output.agreement:.2%}"
        if output.kl is not None:
            yield f"KL{of}", f"{output.kl:.3g}"
        if output.cosine is not None:
            yield f"cosine{of}", f"{output.cosine:.4f}"
        if output.sqnr is not None:
            yield f"SQNR{of}", _decibels(output.sqnr)


def _short_paths(paths: Sequence[str]) -> list[str]:
    """The files' names, and their folders where names are equal."""
    names = [Path(path).name for path in paths]
    return names if len({*names}) == len(names) else list(paths)


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints names as they are: a layer may be called [/stem] or :smile:."""
    console = Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def _line(console: Console, text: str, style: str | None = None) -> None:
    """One line, however long: the terminal may break it, a pipe's reader finds it whole."""
    console.print(text, style=style, soft_wrap=True)


def _show_rows(console: Console, rows: Iterable[Row]) -> None:
    for name, value in rows:
        _line(console, f"{name:<16} {value}")


def _table(*columns: str, numbers: AbstractSet[str] = _NUMBERS) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        justify: JustifyMethod = "right" if column in numbers else "left"
        table.add_column(column, justify=justify, overflow="fold")
    return table


def _layer_table(report: Report) -> Table:
    unit = report.sensitivity.unit
    columns = ("layer", "op", "weights", "bits", "acts", "bytes", unit, "runs as")
    table = _table(*columns, numbers=_NUMBERS | {unit})
    for layer in report.layers:
        table.add_row(
            layer.name,
            layer.op,
            f"{layer.params:,}" if layer.params else "-",
            _width(layer) if layer.params else "-",
            "fp32" if layer.activation_bits is None else str(layer.activation_bits),
            f"{layer.stored_bytes:,}",
            "-" if layer.sensitivity is None else f"{layer.sensitivity:.1e}",
            _runs_as(layer),
        )
    return table


def _width(layer: LayerReport) -> str:
    """`4`, or `4 in 8` where the file spends more bits than the codes have."""
    bits = width_name(layer.weight_bits)
    return bits if layer.container_bits is None else f"{bits} in {layer.container_bits}"


def _runs_as(layer: LayerReport) -> str:
    if layer.kernel is not None:
        return layer.kernel
    looked = layer.activation_bits is None or layer.reason is not None
    return "float" if looked else "-"


def _kernels(report: Report) -> str:
    """How many layers run as which integer kernels."""
    counts = Counter(layer.kernel for layer in report.layers if layer.kernel is not None)
    kinds = ", ".join(f"{count} {kernel}" for kernel, count in counts.items())
    found, layers = f" ({kinds})" if kinds else "", len(report.layers)
    return (
        f"{counts.total()} of {layers} layers as integer kernels{found}, {layers - counts.total()} in float"
    )


def _size_only(report: Report) -> str:
    """The line that says that nothing but bytes was gained, if that, and why."""
    speeds = ", ".join(
        f"{1 / times.speedup:.2f}x fp32's time at batch {times.batch}" for times in report.speed.latency
    )
    is_smaller = report.size.file_bytes < report.size.fp32_file_bytes
    gained = (
        "SIZE ONLY: this file is smaller but no faster" if is_smaller else "NO GAIN: this file is no faster"
    )
    return f"{gained} here ({speeds}): {_why_no_faster(report)}"


def _is_of_matrices(report: Report) -> bool:
    """True for a network most of whose weights are matrices, the inputs of which may find their ranges themselves."""
    matrices = sum(layer.params for layer in report.layers if layer.op in ("Gemm", "MatMul"))
    return matrices > sum(layer.params for layer in report.layers) / 2


def _why_no_faster(report: Report) -> str:
    integer = sum(layer.kernel is not None for layer in report.layers)
    every_run = f"{report.requirements.storage} weights are dequantized at every run"
    if all(layer.activation_bits is None for layer in report.layers):
        as_before = every_run if report.speed.dequantizes else "layers compute as before"
        others = ", dynamic the matrices, without calibration" if _is_of_matrices(report) else ""
        return f"activations stay in fp32, so {as_before}; --activations int8 has them run in integers, whatever that costs{others}"
    bits = next(filter(None, (layer.activation_bits for layer in report.layers)))  # a file has one width
    if bits != 8:
        return f"ONNX Runtime has no integer kernels for {bits}-bit activations, and computes in float between them"
    found = f"{integer} of {len(report.layers)} layers run as integer kernels"
    between = _between(report.speed.float_ops)
    if report.speed.dequantizes:
        return f"{found}, for the others {every_run}{between}"
    gains = ", which gains nothing on this machine"
    return f"{found}{gains}{between}; --activations fp32 computes as before, at the same size"


def _between(float_ops: Mapping[str, str]) -> str:
    """The cause that keeps most operators between layers in float, with their number."""
    if not float_ops:
        return ""
    (reason, count), *_ = Counter(float_ops.values()).most_common(1)
    return f", and {_counted(count, 'operator')} between them in float ({reason})"


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _by_reason(report: Report) -> dict[str, list[str]]:
    """What stays in float by the reason for it: layers first, then the operators between them."""
    pairs = [(layer.name, layer.reason) for layer in report.layers if layer.reason is not None]
    grouped: dict[str, list[str]] = {}
    for name, reason in [*pairs, *report.speed.float_ops.items()]:
        grouped.setdefault(reason, []).append(name)
    return grouped


def _summary(found: Inspection) -> str:
    able = [layer for layer in found.layers if layer.reason is None]
    if not found.is_compiled:
        return f"{len(able)} of {len(found.layers)} layers can be quantized"
    params = sum(math.prod(layer.shape) for layer in found.layers)
    bits = sum(layer.weight_bits * math.prod(layer.shape) for layer in found.layers) / max(params, 1)
    stored = sum(layer.weight_bits < HALF_BITS for layer in found.layers)
    return f"{stored} of {len(found.layers)} layers are quantized, {bits:.3f} bits a weight on average"


def _verdict(report: Report, kinds: Mapping[str, Kind]) -> Iterator[Row]:
    size, quality, needed, speed = report.size, report.quality, report.requirements, report.speed
    yield "file", _sizes(size.fp32_file_bytes, size.file_bytes)
    yield "weights", _weights(size)
    if size.other_weights:
        yield "other weights", _others(size.other_weights)
    for budget in report.budgets:
        yield "budget", f"{budget.asked}: reached {_reached(budget, kinds[budget.kind])}"
    if quality.metrics:
        few = quality.metrics["compiled"].samples
        yield "judged on", quality.evaluated_on + ("; so few tell little: give --eval" if few < _FEW else "")
        yield from _compared(quality.metrics["fp32"], quality.metrics["compiled"])
    if speed.latency and report.run.provider == "cpu":  # it was looked at the runtime's own graph
        yield "runs as", _kernels(report)
    yield "needs", f"{needed} ({needed.target}, {needed.storage} weights)"
    yield "right on CPUs", quality.cpus
    for latency in speed.latency:
        yield f"speed, batch {latency.batch}", _speed(latency)
    if speed.latency:
        yield "speeds hold on", speed.processor
    yield from _sensitivity_rows(report.sensitivity, report.run.seconds.get("sensitivity", 0.0))
    yield "compile", _taken(report.run)


def _weights(size: SizeReport) -> str:
    others = sum(weight.stored_bytes for weight in size.other_weights)
    bytes_now = size.weight_bytes + others
    ratio = (size.fp32_weight_bytes + others) / max(bytes_now, 1)
    bits = f"{size.average_weight_bits:.3f} bits on average"
    counted = f", {bytes_now:,} with the other weights" if others else ""
    return f"{bits}, {size.weight_bytes:,} bytes with scales{counted} ({ratio:.2f}x smaller)"


def _others(weights: Sequence[OtherWeight]) -> str:
    total = sum(weight.stored_bytes for weight in weights)
    named = _listed([f"{w.name} ({w.op}, {w.stored_bytes:,} bytes)" for w in weights])
    return f"{total:,} bytes stay as they are: {named}; {weights[0].reason}"


def _sensitivity_rows(found: SensitivityReport, seconds: float) -> Iterator[Row]:
    """Which method found the sensitivities, what that took, and which rival of the plan ships."""
    taken = [_counted(found.evaluations, "evaluation")] if found.evaluations else []
    taken += [f"{found.samples:,} samples"] if found.samples else []
    yield "sensitivity", ", ".join([found.method, *taken, f"{seconds:.1f} s"])
    if (search := found.search) is not None and search.rival:
        losses = f"{found.metric} {search.before:.3g} -> {search.after:.3g} before requantizing"
        yield "search", f"{search.rival}: {losses}"


def _taken(run: RunReport) -> str:
    memory = f"peak memory {run.peak_rss_bytes / 1e6:,.0f} MB, " if run.peak_rss_bytes else ""
    return f"{sum(run.seconds.values()):.1f} s, {memory}{run.provider}"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _scored(result: Evaluation) -> Iterator[Row]:
    score, latency = result.score, result.latency
    if result.reference is not None:
        yield "reference", result.reference
        yield from _compared(result.reference_score, score)
        yield "bytes", _sizes(result.reference_bytes, result.file_bytes)
        yield "latency, batch 1", _speed(latency)
        return
    if score.top1 is not None:
        yield "top-1", f"{score.top1:.2%}"
    yield "bytes", f"{result.file_bytes:,}"
    yield "latency, batch 1", _duration(latency.model)


def _compared(fp32: Score, compiled: Score) -> Iterator[Row]:
    if fp32.top1 is not None and compiled.top1 is not None:
        points = (compiled.top1 - fp32.top1) * 100
        yield "top-1", f"{fp32.top1:.2%} -> {compiled.top1:.2%} ({points:+.2f} points)"
    if compiled.own is not None:
        yield "your metric", f"{compiled.own:.4g}"
    for name, output in compiled.outputs.items():
        measures = list(_measures(output, compiled.samples))
        if measures and len(compiled.outputs) == 1:
            yield from measures
            return
        words = [f"{value} ({measure})" for measure, value in measures]
        yield f"output {name}", "; ".join(words) or "not compared: empty, a sequence or a map"


def _measures(output: OutputScore, samples: int) -> Iterator[Row]:
    """What is said of one output, by what it holds."""
    if output.agreement is not None:
        yield "agreement", f"{output.agreement:.2%} {_agreeing(output)}, {_counted(samples, 'sample')}"
    if output.kl is not None:
        yield "KL to fp32", f"{output.kl:.3g} nats"
    if output.cosine is not None:
        yield "cosine to fp32", f"{output.cosine:.4f} on average"
    if output.before_sigmoid is not None:
        yield "before sigmoid", _decibels(output.before_sigmoid)
    if output.sqnr is not None:
        yield "SQNR to fp32", _sqnr(output)
    if output.reshaped:
        yield (
            "other shape",
            f"in {output.reshaped:.0%} of the runs, {output.resized:.2g} times as many values: only sizes are compared",
        )
    if output.moved:
        yield (
            "not finite",
            f"{output.moved:.2%} of the values became NaN or Inf, or were it and no longer are",
        )


def _agreeing(output: OutputScore) -> str:
    if output.kind is None:
        return "equal values"
    if output.is_binary:
        return "on the same side of 0.5 as fp32"
    return "same class as fp32" + (" at each position" if output.kind is OutputKind.POSITIONS else "")


def _sqnr(output: OutputScore) -> str:
    assert output.sqnr is not None
    worst = f", {output.worst} {_decibels(output.worst_sqnr or 0.0)}" if output.worst else ""
    silent = "; the samples hardly excite it: judge by others" if output.is_silent else ""
    return f"{_decibels(output.sqnr)}{worst}{silent}"


def _sizes(before: int, after: int) -> str:
    ratio = before / max(after, 1)
    change = f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"
    return f"{before:,} -> {after:,} bytes ({change})"


def _speed(latency: Latency) -> str:
    faster = "faster" if latency.speedup >= 1 else "slower"
    ratio = max(latency.speedup, 1 / latency.speedup)
    change = "as fast" if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f}x {faster}"
    return f"{_duration(latency.reference)} -> {_duration(latency.model)} ({change} here)"


def _reached(budget: BudgetReport, kind: Kind) -> str:
    return "not measured" if budget.reached is None else kind.words(budget.reached, budget.limit)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _spent(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _decibels(sqnr: float) -> str:
    return f"{sqnr:.1f} dB" if math.isfinite(sqnr) else "equal" if sqnr > 0 else "not finite"
