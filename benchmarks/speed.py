"""What a compile costs in time and memory, and how fast its files are.

    python benchmarks/speed.py [--models resnet56 ...] [--only sensitivity|memory|latency ...] [--samples 512]
                               [--threads 0] [--tune] [--output docs/speed_table.md]

memory        peak of a whole compile in a fresh process, with few and with many samples
sensitivity   seconds of the stage against (layers x widths) plain fp32 forwards of the same samples
latency       fp32 against the weight-only and the int8 file, interleaved, by batch and threads

Without --models, memory runs on MobileNetV2, sensitivity on ResNet-56 and latency on all networks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from machine import ROOT, SHARED, header, table
from networks import Network, calibration, networks, open_samples

import onnxmpq
from onnxmpq import chain, pipeline
from onnxmpq.engine import Array, Runtime, Session
from onnxmpq.plan import CostTable
from onnxmpq.sensitivity import METHODS
from onnxmpq.sensitivity.measured import measured
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.size import size

_BUDGET = "4bit-avg"
_SECTIONS = ("memory", "sensitivity", "latency")
_FEW, _MANY = 100, 1000  # samples whose peaks are compared
_PAUSE = 0.05  # seconds after which the threads of other sessions no longer spin
_FORWARDS = 5  # plain forwards of a batch, beside the sensitivity of that batch
_BATCHES, _PARTS = (16, 32, 64, 128), (2, 4, 6, 9, 12)  # what --tune tries
_ROUNDS = 30
_SECONDS = 10.0  # at most, for the rounds of one row
_WARM_UP = 2


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
    if "sensitivity" in options.only:
        chosen = _chosen(options.models, "resnet56")
        sections.append(sensitivity(chosen, options.samples, options.threads, tune=options.tune))
    if "latency" in options.only:
        sections.append(latency(networks(options.models), options.samples))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n\n".join(["# Speed", header(), *sections]), encoding="utf-8")


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
    pipeline.SENSITIVITY_SAMPLES = samples  # a compile measures on fewer than it calibrates on
    onnxmpq.compile_model(
        network.model, [_BUDGET], calibration(network, scratch), output=scratch / "compiled.onnx",
        preprocess=network.decoding, samples=samples, provider="cpu", method="capture", verify=False,
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
        time.sleep(_PAUSE)
        feeds = self.batches[done // layers - 1]
        _timed(self.session, feeds)  # warms the caches and wakes the threads
        self.seconds.append(statistics.mean(_timed(self.session, feeds) for _ in range(_FORWARDS)))
        self.away += time.perf_counter() - start


def stage_cells(network: Network, probe: Probe) -> list[str]:
    """Run the stage: its dimensions, its seconds, those of a forward, and their ratio."""
    batches = [batch.feeds for batch in probe.data.batches(probe.batch_size)]
    forwards = Forwards(probe.runtime.session(network.model), batches)
    start = time.perf_counter()
    measured(replace(probe, progress=forwards.progress))
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


def latency(chosen: Sequence[Network], samples: int) -> str:
    """The section on the speed of the files."""
    rows: list[list[str]] = []
    for network in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            files = compiled_files(network, samples, Path(scratch))
            for batch in (1, 32):
                data = open_samples(network, calibration(network, Path(scratch)), samples=batch)
                feeds = next(data.batches(batch)).feeds
                for threads in (1, 2):
                    sessions = [Runtime("cpu", threads).session(file) for file in files]
                    _add(rows, [network.name, str(batch), str(threads), *latency_cells(sessions, feeds)])
    columns = [
        "model", "batch", "threads", "fp32 ms", "weight-only ms", "int8 ms", "weight-only / fp32", "int8 / fp32",
    ]  # fmt: skip
    return (
        f"## Latency at {_BUDGET}\n\nMedians of up to {_ROUNDS} interleaved rounds, and medians of the rounds' "
        f"ratios (below 1: faster than fp32).\n\n{table(columns, rows)}"
    )


def compiled_files(network: Network, samples: int, scratch: Path) -> list[Path]:
    """The fp32 file, the weight-only one and the int8 one."""
    files = [network.model]
    for activations in ("fp32", "int8"):
        files.append(scratch / f"{activations}.onnx")
        onnxmpq.compile_model(
            network.model, [_BUDGET], calibration(network, scratch), output=files[-1], activations=activations,
            preprocess=network.decoding, samples=samples, provider="cpu", verify=False,
        )  # fmt: skip
    return files


def latency_cells(sessions: Sequence[Session], feeds: Mapping[str, Array]) -> list[str]:
    """Median milliseconds of each session, then the median ratio of each but the first to the first."""
    for _ in range(_WARM_UP):
        for session in sessions:
            session.run(feeds)
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < _ROUNDS and (len(rounds) < 3 or time.perf_counter() - start < _SECONDS):
        rounds.append([_timed(session, feeds) for session in sessions])
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    ratios = [statistics.median(r[i] / r[0] for r in rounds) for i in range(1, len(sessions))]
    return [*(f"{1e3 * seconds:.2f}" for seconds in medians), *(f"{ratio:.3f}" for ratio in ratios)]


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
