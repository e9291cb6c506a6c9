"""Networks that people deploy: file, speed and the task's own measure, beside onnxruntime's own quantizers.

python benchmarks/zoo.py --models FOLDER [--networks nudenet ...] [--budgets 8bit-avg 4bit-avg] [--samples 128] [--judged 128]
                         [--effort balanced] [--peers] [--results docs/zoo_results.jsonl] [--output docs/zoo_table.md]

The networks are fetched into FOLDER by ../shared/zoo/fetch.py, their data are made by its data.py, files are judged by its
judge.py (one thread, by turns), and --peers makes files by its peers.py. Nothing but the budget and the effort is said to the compiler. What is
measured is added to the results line by line; the table is made of the last of each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from compiling import Result, command_line, record, recorded
from machine import SHARED, commit, header, table

import onnxmpq
from onnxmpq.verify.machine import processor

_ZOO = SHARED / "zoo"
_COLUMNS = [
    "network",
    "file of",
    "samples, effort",
    "file",
    "speed, batch 1",
    "batch 8",
    "measures",
    "SQNR, dB",
    "compile",
    "processor",
    "commit",
]
_NOTE = (
    "File and speed are fp32 over compiled, on one thread; measures are the task's own, with the answers of fp32 as the truth, on "
    "data that chose nothing. Nothing but the budget, the data and the effort was said.\n"
)
_KEPT = 4  # digits of a measure


def main() -> None:
    parser = command_line(__doc__, "zoo", 128, 128, "balanced")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    if not _ZOO.is_dir():
        raise SystemExit(f"{_ZOO} is not there: nothing to fetch networks with")
    record(sorted(options.models.glob("*.onnx")), options, measured)
    text = (
        f"# Deployed networks\n\n{_NOTE}\n{header()}\n\n{table(_COLUMNS, list(rows(read(options.results))))}"
    )
    options.output.write_text(text, encoding="utf-8")


def measured(model: Path, options: argparse.Namespace) -> Iterator[Result]:
    """The files of a network, ours and with `--peers` onnxruntime's own, each judged."""
    with tempfile.TemporaryDirectory() as folder:
        data, written = Path(folder) / "calib.npz", Path(folder) / "out.onnx"
        zoo("data.py", model.stem, data, "--n", options.samples, "--model", model)
        told = {
            "samples": options.samples,
            "effort": options.effort,
            "commit": commit(),
            "processor": processor(),
        }
        for budget in options.budgets:
            start = time.monotonic()
            try:
                onnxmpq.compile_model(
                    model, budget, data, output=written, effort=options.effort, verify=False
                )
            except onnxmpq.OnnxmpqError as error:
                yield {"name": model.stem, "how": budget, "refused": str(error)[:200]} | told
                continue
            seconds = round(time.monotonic() - start)
            yield judged(model, written, options.judged) | {"how": budget, "seconds": seconds} | told
        if options.peers:
            yield from peers(model, written, options)


def peers(model: Path, written: Path, options: argparse.Namespace) -> Iterator[Result]:
    """What onnxruntime's own quantizer makes of it, where it makes anything."""
    told = {"commit": "-", "processor": processor()}
    try:
        zoo("peers.py", model.stem, written, "--models", model.parent, "--n", options.samples)
        found = judged(model, written, options.judged)
    except subprocess.CalledProcessError as error:  # no file, or one that does not run
        last = (error.stderr.strip().splitlines() or ["failed"])[-1]
        yield {"name": model.stem, "how": "onnxruntime", "refused": last[:200], **told}
    else:
        yield found | {"how": "onnxruntime", "seconds": None, **told}


def judged(model: Path, written: Path, count: int) -> Result:
    """The judge's line."""
    return dict(json.loads(zoo("judge.py", model, written, model.stem, "--n", count).splitlines()[-1]))


def zoo(script: str, *arguments: object) -> str:
    """What a script of the zoo prints; CalledProcessError where it fails."""
    command = [sys.executable, str(_ZOO / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ZOO).stdout


def read(path: Path) -> dict[tuple[str, str, str], Result]:
    """The last result of each network and file on each processor."""
    return {(result["name"], result["how"], result["processor"]): result for result in recorded(path)}


def rows(known: Mapping[tuple[str, str, str], Result]) -> Iterator[list[str]]:
    """A row for each file, networks in alphabetical order."""
    for (name, how, machine), result in sorted(known.items()):
        if "refused" in result:
            yield [
                name,
                how,
                asked(result),
                f"refused: {result['refused']}",
                *["-"] * 5,
                machine,
                result["commit"],
            ]
            continue
        speeds = [ratio(result["speed"].get(batch)) for batch in ("batch1", "batch8")]
        yield [
            name,
            how,
            asked(result),
            f"{result['file_ratio']:.2f}x",
            *speeds,
            ", ".join(f"{key} {number(value)}" for key, value in result["task"].items()),
            ", ".join(f"{db:.1f}" for db in result["sqnr_db"]),
            "-" if result["seconds"] is None else f"{result['seconds']} s",
            machine,
            result["commit"],
        ]


def asked(result: Result) -> str:
    """On how many samples, at which effort."""
    return f"{result['samples']}, {result['effort']}" if "effort" in result else "-"


def number(value: float | Sequence[float]) -> str:
    """A measure, or one for each output."""
    return "/".join(map(number, value)) if isinstance(value, Sequence) else f"{round(value, _KEPT):g}"


def ratio(timed: object) -> str:
    """A speed in words; the judge gives the reason where a batch does not run."""
    return f"{timed['ratio']:.2f}x" if isinstance(timed, dict) else "-"


if __name__ == "__main__":
    main()
