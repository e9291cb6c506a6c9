"""Does every runtime that a file is for load it, run it, and give what the file says? Writes docs/runtimes_table.md.

python benchmarks/runtimes.py [--networks resnet20 ...] [--samples 64] [--rounding compensated] [--files ort-cpu/packed ...] [--results docs/runtimes_results.jsonl]
    [--onnxruntime PYTHON ...] [--qnn PYTHON] [--tract PYTHON] [--openvino PYTHON] [--node FOLDER] [--web FOLDER] [--only-table]

Each runtime runs in a process of its own, by the interpreter that has it (PYTHON), or by node with the packages of FOLDER/node_modules; one
that is not there is a column that says so. Agreement is with ONNX Runtime, its optimizations off: what the file itself says. What is measured
is added to the results line by line; the table is made of the last of each.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from machine import ROOT, commit, header, table
from networks import Network, calibration, evaluation, networks, open_samples

import onnxmpq
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array
from onnxmpq.values.target import TARGETS

_HOST = Path(__file__).with_name("runtime_host.py")
_CALIBRATED_ON = 64  # samples
_WAIT = 900  # seconds that a runtime has for one file
_LENGTH = 160  # of what a runtime says, as far as the table tells it
_NOT_THERE = "not there"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file: for whom, how its weights lie, how wide they are, and its activations."""

    target: str
    storage: str
    bits: int
    activations: str
    rounding: str = "compensated"

    def __str__(self) -> str:
        nearest = "" if self.rounding == "compensated" else f", {self.rounding}"
        return f"{self.target}/{self.storage}, {self.bits} bits, {self.activations}{nearest}"


@dataclass(frozen=True, slots=True)
class Found:
    """What one runtime made of one file: `same` is the share of equal classes, `decibels` its SQNR, `said` why it failed."""

    network: str
    kind: str
    file_bytes: int
    runtime: str
    version: str
    samples: int
    same: float | None = None
    decibels: float | None = None
    said: str | None = None


def kinds(rounding: str) -> Iterator[Kind]:
    """Every target's storages, at widths that tell them apart, with the activations that it computes with."""
    for name, target in TARGETS.items():
        floats = ["fp32"] if target.weights.beside_floats else []
        for storage in target.weights.storages:
            widths = {"packed": (3, 4, 8), "native": target.weights.tensor_bits, "int8": (8,)}[storage]
            for activations in (*floats, *(f"int{bits}" for bits in target.activations.bits if bits != 4)):
                for bits in sorted(widths):
                    if activations == "fp32" or storage != "native" or bits in target.weights.direct_bits:
                        yield Kind(name, storage, bits, activations, rounding)


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """How each runtime is started, by its name."""
    found = {"onnxruntime": [sys.executable, str(_HOST), "onnxruntime"]}
    for place, python in enumerate(args.onnxruntime):
        found[f"onnxruntime #{place}"] = [python, str(_HOST), "onnxruntime"]
    for runtime in ("qnn", "openvino", "tract"):
        found[runtime] = [getattr(args, runtime), str(_HOST), runtime]
    found["node"] = ["node", str(_HOST.with_suffix(".js")), args.node]
    found["web"] = [sys.executable, str(_HOST), f"web:{args.web}"]
    return found


def version(command: Sequence[str]) -> str | None:
    """The version that a runtime says it has; None where it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_WAIT)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[-1]


def compiled(network: Network, kind: Kind, scratch: Path) -> Path:
    """A file of that kind, rounded against real data. Raises OnnxmpqError where there is none."""
    output = scratch / f"{network.name}.onnx"
    onnxmpq.compile_model(
        network.model, [f"{8 if kind.storage == 'int8' else kind.bits}bit-avg"], data=calibration(network, scratch),
        preprocess=network.decoding, samples=_CALIBRATED_ON, bits=(kind.bits,), activations=kind.activations,
        target=kind.target, storage=kind.storage, rounding=kind.rounding, method="size", effort="fast", verify=False, output=output,
    )  # fmt: skip
    return output


def ran(command: Sequence[str], file: Path, values: Array, scratch: Path) -> Array | str:
    """The first output of a runtime [N, ...], or what it says where it fails."""
    source, target = scratch / "input.bin", scratch / "output.bin"
    target.unlink(missing_ok=True)
    values.tofile(source)
    shape = "x".join(map(str, values.shape))
    done = subprocess.run(
        [*command, str(file), str(source), shape, str(target)], capture_output=True, text=True, check=False,
        timeout=_WAIT, stdin=subprocess.DEVNULL, start_new_session=True,  # what stops its group stops itself alone
    )  # fmt: skip
    if target.exists() and not done.returncode:
        return np.fromfile(target, np.float32).reshape(len(values), -1)
    return _words(done.stderr, scratch) or f"ended with {done.returncode}"


def _words(stderr: str, scratch: Path) -> str:
    """What a runtime said itself, without colours, paths and traces."""
    said = stderr.rpartition("SAID:")[2].replace(str(scratch), "").partition("Stack backtrace")[0]
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", said).replace("|", "/").split())[: 4 * _LENGTH]


def judged(expected: Array, given: Array | str) -> dict[str, object]:
    """Agreement with what the file says."""
    if isinstance(given, str):
        return {"said": given}
    same = float(np.mean(expected.argmax(1) == given.argmax(1)))
    return {"same": round(same, 4), "decibels": round(signal_to_noise(expected, given), 1)}


def measured(
    network: Network, kind: Kind, runtimes: Mapping[str, tuple[str, Sequence[str]]], samples: int
) -> Iterator[Found]:
    """One file in every runtime."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        try:
            file = compiled(network, kind, scratch)
        except onnxmpq.OnnxmpqError as error:
            print(f"  no such file: {error}")
            return
        data = open_samples(network, evaluation(network), samples)
        ((name, values),) = next(iter(data.batches(samples))).feeds.items()
        expected = Runtime("cpu").session(file, optimize=False).run({name: values})
        first = np.asarray(next(iter(expected.values()))).reshape(len(values), -1)
        for runtime, (known, command) in runtimes.items():
            found = judged(first, ran(command, file, values, scratch))
            yield Found(network.name, str(kind), file.stat().st_size, runtime, known, len(values), **found)  # type: ignore[arg-type]


def cell(found: Found | None, notes: list[str]) -> str:
    """Share of equal classes and SQNR, or the number of what it said."""
    if found is None:
        return ""
    if found.said is None:
        return f"{100 * (found.same or 0):.1f} %, {found.decibels:.0f} dB"
    said = found.said if len(found.said) <= _LENGTH else f"{found.said[:_LENGTH]} ..."
    if said not in notes:
        notes.append(said)
    return f"no [{notes.index(said) + 1}]"


def written(results: Sequence[Found], absent: Sequence[str]) -> str:
    """The table of everything found, the last of each."""
    last = {(f.network, f.kind, f.runtime, f.version): f for f in results}
    columns = list(dict.fromkeys((f.runtime.split(" #")[0], f.version) for f in last.values()))
    cells = {(f.network, f.kind, f.runtime.split(" #")[0], f.version): f for f in last.values()}
    notes: list[str] = []
    rows = []
    for network, kind in dict.fromkeys((f.network, f.kind) for f in last.values()):
        own = [cells.get((network, kind, *column)) for column in columns]
        one = next(found for found in own if found)
        rows.append(
            [network, kind, f"{one.file_bytes:,}", str(one.samples), *(cell(found, notes) for found in own)]
        )
    heads = ["network", "file", "bytes", "samples", *(f"{runtime} {known}" for runtime, known in columns)]
    said = "\n".join(f"{place}. {words}" for place, words in enumerate(notes, 1))
    missing = f"\nNot there when this was measured: {', '.join(absent)}.\n" if absent else ""
    return f"{table(heads, rows)}{missing}\nWhat a runtime says that does not run a file:\n\n{said}\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=[])
    parser.add_argument("--files", nargs="*", default=[], help="parts of names of files, such as qnn/native")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounding", choices=["compensated", "nearest"], default="compensated")
    parser.add_argument("--onnxruntime", nargs="*", default=[])
    for runtime in ("qnn", "openvino", "tract"):
        parser.add_argument(f"--{runtime}", default=sys.executable)
    parser.add_argument("--node", default=".")
    parser.add_argument("--web", default=".")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "runtimes_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "runtimes_table.md")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    known = {name: (version(command), command) for name, command in commands(args).items()}
    runtimes = {name: (found, command) for name, (found, command) in known.items() if found is not None}
    for network in [] if args.only_table else networks(args.networks):
        for kind in (
            k for k in kinds(args.rounding) if not args.files or any(part in str(k) for part in args.files)
        ):
            print(f"{network.name}: {kind}", flush=True)
            for found in measured(network, kind, runtimes, args.samples):
                print(f"  {found.runtime} {found.version}: {cell(found, [])} {found.said or ''}", flush=True)
                with args.results.open("a", encoding="utf-8") as results:
                    results.write(json.dumps(asdict(found)) + "\n")
    lines = args.results.read_text(encoding="utf-8").splitlines()
    body = written([Found(**json.loads(line)) for line in lines], [n for n in known if n not in runtimes])
    head = f"# Files in runtimes\n\n{_WHAT}\n\n{header()} Commit {commit()}.\n\n"
    args.output.write_text(head + body, encoding="utf-8")


_WHAT = """Written by `benchmarks/runtimes.py`. Each cell: the share of samples whose first class is that of ONNX Runtime with its optimizations
off (what the file itself says), and the SQNR of the first output against it; `no [n]` where a runtime does not load or run the file, in
its own words below. `qnn` is Qualcomm's HTP as PyPI's onnxruntime-qnn emulates it on x86, the fall-back to the CPU forbidden; `web` is
onnxruntime-web, wasm with one thread, on a page in headless Chromium; `node` is onnxruntime-node. Integer layers with 8-bit
codes (`qnn`, `tensorrt`) saturate in ONNX Runtime and OpenVINO on CPUs without VNNI, as their compiles say."""


if __name__ == "__main__":
    main()
