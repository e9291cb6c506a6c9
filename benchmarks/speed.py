"""What a compile costs in time and memory, and how fast its files are.

    python benchmarks/speed.py [--models resnet56 ...] [--only memory|loading|sensitivity|compile|latency ...] [--samples 512]
                               [--threads 0] [--tune] [--output docs/speed_table.md]

memory        peak of a whole compile in a fresh process, with few and with many samples
sensitivity   seconds of the stage against (layers x widths) plain fp32 forwards of the same samples
compile       seconds of whole compiles in plain fp32 forwards of the same samples
loading       making a session of each of the files below, and of one with 25 million weights
latency       bytes and speed of fp32, onnxruntime's own static int8 file and ours, interleaved, by batch and threads

Without --models, memory and loading run on MobileNetV2, sensitivity and compile on ResNet-56 and latency on all networks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from files import (
    FP32,
    INT8_BITS,
    LATENCY,
    LOADING,
    STATIC,
    WEIGHT_ONLY,
    comparable_files,
    ours,
    write_wide,
)
from loading import load_cost
from machine import ROOT, SHARED, header, table
from networks import Network, calibration, networks, open_samples

import onnxmpq
from onnxmpq.metrics.latency import interleaved, medians, ratio, seconds_a_run
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.sensitivity import chain
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.sensitivity.methods.measured import at_every_width
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable
from onnxmpq.values.effort import EFFORTS, Effort

_BUDGET = "4bit-avg"
_SECTIONS = ("memory", "loading", "sensitivity", "compile", "latency")
_FEW, _MANY = 100, 1000  # samples whose peaks are compared
_FORWARDS = 5  # plain forwards of all samples, of which the quickest counts
_BATCHES, _PARTS = (16, 32, 64, 128), (2, 4, 6, 9, 12)  # what --tune tries
_SECONDS = 12.0  # at most, for the rounds of one row
_SAMPLES = 64  # that the files whose speed is compared are calibrated on
_LOADS = 7
_WIDE_BITS = (5, 6, 7)
_CHEAP = (
    f"Ours are compiled with {_SAMPLES} samples, widths by the sizes of layers and weights rounded to nearest: speed "
    "does not hang on which codes a file holds."
)
# Limits that the project set itself.
_TO_STATIC, _TO_FP32, _WEIGHT_ONLY_TO_FP32 = 1.02, 1.0, 1.03
_LOAD_RATIO, _LOAD_MORE = 1.5, 0.08  # seconds
_WIDE_SECONDS, _WIDE_BYTES = 1.0, 20.0
_COMPILE_FORWARDS = {"fast": 60, "balanced": 200}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--only", nargs="+", choices=_SECTIONS, default=_SECTIONS)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--threads", type=int, default=0, help="of the sensitivity stage; 0: one a core")
    parser.add_argument(
        "--tune", action="store_true", help="the sensitivity stage by batch and part size too"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "speed_table.md")
    options = parser.parse_args()
    sections = []
    if "memory" in options.only:  # first: see `peak_bytes`
        sections.append(memory(_chosen(options.models, "mobilenetv2")))
    if "loading" in options.only:
        sections.append(loading(_chosen(options.models, "mobilenetv2"), _SAMPLES))
    if "sensitivity" in options.only:
        chosen = _chosen(options.models, "resnet56")
        sections.append(sensitivity(chosen, options.samples, options.threads, tune=options.tune))
    if "compile" in options.only:
        sections.append(whole(_chosen(options.models, "resnet56"), options.samples))
    if "latency" in options.only:
        sections.append(latency(networks(options.models), _SAMPLES))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    former = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
    options.output.write_text(merged(former, sections), encoding="utf-8")


def merged(former: str, sections: Sequence[str]) -> str:
    """The document with the sections just run, their date and machine on top, in place of their former selves."""
    kept = _by_title(former)
    for title, body in _by_title("\n".join(["", *sections])).items():
        kept[title] = f"\n{header()}\n{body}"
    return "# Speed\n" + "".join(f"\n## {title}\n{body.rstrip()}\n" for title, body in kept.items())


def _by_title(text: str) -> dict[str, str]:
    pairs = (part.partition("\n") for part in text.split("\n## ")[1:])
    return {title: body for title, _, body in pairs}


def memory(chosen: Sequence[Network]) -> str:
    """The section on peak memory."""
    rows: list[list[str]] = []
    for network in chosen:
        few, many = peak_bytes(network, _FEW), peak_bytes(network, _MANY)
        _add(rows, [network.name, f"{few / 1e6:,.0f}", f"{many / 1e6:,.0f}", f"{many / few:.3f}"])
    columns = ["model", f"MB, {_FEW} samples", f"MB, {_MANY:,} samples", "ratio"]
    return (
        f"## Peak memory of a compile at {_BUDGET}\n\nEach in a process of its own.\n\n{table(columns, rows)}"
    )


def peak_bytes(network: Network, samples: int) -> int:
    """Peak resident bytes of `onnxmpq compile`, as it reports them.

    Linux hands the peak of a process on to those it starts: call this before anything large is loaded here.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = str(calibration(network, scratch))
        command = [sys.executable, "-m", "onnxmpq", "compile", str(network.model), "--budget", _BUDGET]
        # Judged on the same file: no sample is held back, and both runs judge the same number.
        command += ["--data", data, "--eval", data, "--samples", str(samples), "--provider", "cpu"]
        command += ["--output", str(scratch / "compiled.onnx"), "--json"]
        if network.decoding is not None:
            command += ["--preprocess", str(network.decoding)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return int(json.loads(done.stdout)["peak_rss_bytes"])


def sensitivity(chosen: Sequence[Network], samples: int, threads: int, *, tune: bool) -> str:
    """The section on the sensitivity stage."""
    rows: list[list[str]] = []
    for network in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            probe = captured_probe(network, samples, Path(scratch))
            probe = replace(probe, runtime=Runtime("cpu", threads))
            for tried in _tunings(probe) if tune else [probe]:
                _add(rows, [network.name, *stage_cells(network, tried)])
    columns = [
        "model", "layers", "widths", "samples", "batch", "layers a part", "stage s", "forward s", "ratio",
    ]  # fmt: skip
    return (
        "## The sensitivity stage\n\nRatio: stage / (layers x widths x forward); the forward is that of the "
        f"original file over the same batches, timed between them.\n\n{table(columns, rows)}"
    )


def captured_probe(network: Network, samples: int, scratch: Path) -> Probe:
    """What a compile hands to its sensitivity method, over all samples; its data lie in `scratch`."""
    probes = []

    def capture(probe: Probe) -> CostTable:
        probes.append(probe)
        return size(probe)

    METHODS["capture"] = capture
    EFFORTS["capture"] = Effort("capture", sensitivity=samples, judge=samples, requantize=1)
    onnxmpq.compile_model(
        network.model, [_BUDGET], calibration(network, scratch), output=scratch / "compiled.onnx",
        preprocess=network.decoding, samples=2 * samples, provider="cpu", method="capture", effort="capture",
        verify=False,
    )  # fmt: skip
    return probes[0]


@dataclass
class Forwards:
    """Plain fp32 forwards, timed when the stage has done a batch, so that both meet the machine alike."""

    session: Session
    batches: Sequence[Mapping[str, Array]]
    seconds: list[float] = field(default_factory=list)  # of each batch
    away: float = 0.0  # what the stage is not charged with

    def progress(self, done: int, total: int) -> None:
        """Called by the stage after each layer of each batch."""
        layers = total // len(self.batches)
        if done % layers:
            return
        start = time.perf_counter()
        self.seconds.append(seconds_a_run(self.session, self.batches[done // layers - 1]))
        self.away += time.perf_counter() - start


def stage_cells(network: Network, probe: Probe) -> list[str]:
    """Run the stage: its dimensions, its seconds, those of a forward, and their ratio."""
    batches = [batch.feeds for batch in probe.data.batches(probe.batch_size)]
    forwards = Forwards(probe.runtime.session(network.model), batches)
    start = time.perf_counter()
    at_every_width(replace(probe, progress=forwards.progress))
    stage = time.perf_counter() - start - forwards.away
    forward = sum(forwards.seconds)
    widths = [len(options) for options in probe.options.values()]
    return [
        str(len(widths)),
        str(max(widths)),
        str(probe.data.count),
        str(probe.batch_size),
        str(chain._LAYERS_A_PART),  # noqa: SLF001
        f"{stage:.2f}",
        f"{forward:.3f}",
        f"{stage / (sum(widths) * forward):.3f}",
    ]


def whole(chosen: Sequence[Network], samples: int) -> str:
    """The section on whole compiles, verdict included."""
    rows: list[list[str]] = []
    for network in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            data = calibration(network, Path(scratch))
            before = forward_seconds(network, data, samples)
            for effort, limit in _COMPILE_FORWARDS.items():
                seconds = compile_seconds(network, data, samples, effort)
                after = forward_seconds(network, data, samples)
                forward = (before + after) / 2
                cells = [effort, str(samples), f"{seconds:.1f}", f"{forward:.3f}"]
                _add(rows, [network.name, *cells, against(seconds / forward, limit)])
                before = after
    columns = ["model", "effort", "samples", "compile s", "forward s", "forwards"]
    return (
        f"## A whole compile at {_BUDGET}\n\nIn plain fp32 forwards of the same samples, timed before and after it.\n\n"
        f"{table(columns, rows)}"
    )


def compile_seconds(network: Network, data: Path, samples: int, effort: str) -> float:
    """What a compile takes, reading the data included."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        onnxmpq.compile_model(
            network.model, [_BUDGET], data, output=Path(scratch) / "compiled.onnx", preprocess=network.decoding,
            samples=samples, provider="cpu", effort=effort,
        )  # fmt: skip
        return time.perf_counter() - start


def forward_seconds(network: Network, data: Path, samples: int) -> float:
    """The least of some forwards of the original file over the samples in batches of 64."""
    batches = [batch.feeds for batch in open_samples(network, data, samples=samples).batches(64)]
    session = Runtime("cpu").session(network.model)
    return min(sum(_timed(session, feeds) for feeds in batches) for _ in range(_FORWARDS))


def latency(chosen: Sequence[Network], samples: int) -> str:
    """The section on the speed of the files, beside onnxruntime's own int8 file."""
    times: list[list[str]] = []
    ratios: list[list[str]] = []
    sizes: list[list[str]] = []
    for network in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            files = comparable_files(network, samples, Path(scratch), LATENCY)
            sizes.append([network.name, *(f"{file.stat().st_size:,}" for file in files.values())])
            for batch in (1, 32):
                data = open_samples(network, calibration(network, Path(scratch)), samples=batch)
                feeds = next(data.batches(batch)).feeds
                for threads in (1, 2):
                    sessions = [Runtime("cpu", threads).session(file) for file in files.values()]
                    rounds = interleaved(sessions, feeds, most=_SECONDS)
                    place = [network.name, str(batch), str(threads)]
                    _add(times, [*place, str(len(rounds)), *(f"{1e3 * s:.2f}" for s in medians(rounds))])
                    _add(ratios, [*place, *ratio_cells(list(files), rounds)])
    names = [FP32, STATIC, *map(ours, INT8_BITS), WEIGHT_ONLY]
    limits = [f"{ours(bits)} / {STATIC}" for bits in INT8_BITS]
    limits += [f"{ours(bits)} / {FP32}" for bits in INT8_BITS] + [f"{WEIGHT_ONLY} / {FP32}"]
    return (
        f"## Files\n\nBytes. {_CHEAP}\n\n{table(['model', *names], sizes)}\n"
        "## Latency\n\nMedians of interleaved rounds, in ms. In each round a file has a pause, in which the threads of the "
        "file before cease to spin, some runs that are not timed, and then the median of a turn of runs.\n\n"
        f"{table(['model', 'batch', 'threads', 'rounds', *names], times)}\n"
        "Medians of the rounds' ratios (below 1: faster), each with its limit where one is set; **beyond** it in "
        f"bold.\n\n{table(['model', 'batch', 'threads', *limits], ratios)}"
    )


def ratio_cells(names: Sequence[str], rounds: Sequence[Sequence[float]]) -> list[str]:
    """The ratios that a table tells, each with its limit: ours to onnxruntime's own, and to fp32."""

    def cell(name: str, other: str, limit: float) -> str:
        return against(ratio(rounds, names.index(name), names.index(other)), limit)

    cells = [cell(ours(bits), STATIC, _TO_STATIC) for bits in INT8_BITS]
    cells += [cell(ours(bits), FP32, _TO_FP32) for bits in INT8_BITS]
    return [*cells, cell(WEIGHT_ONLY, FP32, _WEIGHT_ONLY_TO_FP32)]


def against(value: float, limit: float) -> str:
    """A figure and its limit side by side, in bold where it is beyond."""
    text = f"{value:.3f} (<= {limit:g})"
    return text if value <= limit else f"**{text}**"


def loading(chosen: Sequence[Network], samples: int) -> str:
    """The section on making a session of a file."""
    rows: list[list[str]] = []
    for network in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            costs = load_costs(comparable_files(network, samples, Path(scratch), LOADING))
            base = costs[FP32][0]
            limit = _LOAD_RATIO * base + _LOAD_MORE
            for name, (seconds, peak) in costs.items():
                cells = [
                    f"{seconds / base:.2f}",
                    against(1e3 * seconds, round(1e3 * limit)),
                    f"{peak / 1e6:.0f}",
                ]
                _add(rows, [network.name, name, *cells])
    wide = wide_rows()
    return (
        "## Making a session\n\nMedians of processes of their own, in turn; the limit is 1.5 x fp32 and 80 ms; MB "
        f"is the process's peak while it makes the session.\n\n"
        f"{table(['model', 'file', 'to fp32', 'ms', 'MB'], rows)}\n"
        "A generated chain of wide convolutions, 25 million weights, each at one width: what a session takes more "
        f"than one of the fp32 file.\n\n{table(['bits', 'activations', 's more', 'bytes a weight more'], wide)}"
    )


def wide_rows() -> list[list[str]]:
    """Width, activations, and what a session of that file costs above fp32's."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        files = {FP32: scratch / "wide.onnx"}
        weights = write_wide(files[FP32])
        for bits, activations in itertools.product(_WIDE_BITS, ("fp32", "int8")):
            files[f"{bits} {activations}"] = scratch / f"{bits}{activations}.onnx"
            onnxmpq.compile_model(
                files[FP32], [f"{bits}bit-avg"], output=files[f"{bits} {activations}"], bits=(bits,),
                activations=activations, rounding="nearest", provider="cpu", verify=False,
            )  # fmt: skip
        costs = load_costs(files)
    base_seconds, base_peak = costs.pop(FP32)
    for name, (seconds, peak) in costs.items():
        more = against(seconds - base_seconds, _WIDE_SECONDS)
        _add(rows, [*name.split(), more, against((peak - base_peak) / weights, _WIDE_BYTES)])
    return rows


def load_costs(files: Mapping[str, Path]) -> dict[str, tuple[float, float]]:
    """Median seconds and peak bytes of making a session of each file, in turn."""
    rounds = [{name: load_cost(file) for name, file in files.items()} for _ in range(_LOADS)]
    return {
        name: (
            statistics.median(costs[name][0] for costs in rounds),
            statistics.median(costs[name][1] for costs in rounds),
        )
        for name in files
    }


def _chosen(names: Sequence[str], usual: str) -> list[Network]:
    """The networks asked for, else the usual one of a section, else the project's own."""
    return networks(names or ([usual] if SHARED.is_dir() else []))


def _tunings(probe: Probe) -> Iterator[Probe]:
    """The probe by batch size, then by layers a part of the chain."""
    yield from (replace(probe, batch_size=batch) for batch in _BATCHES)
    usual = chain._LAYERS_A_PART  # noqa: SLF001
    for chain._LAYERS_A_PART in _PARTS:  # noqa: SLF001
        yield probe
    chain._LAYERS_A_PART = usual  # noqa: SLF001


def _timed(session: Session, feeds: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def _add(rows: list[list[str]], row: list[str]) -> None:
    """Add a row, and show it: a run takes minutes."""
    rows.append(row)
    print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
