"""What local workers gain: the stages' seconds with one worker and with two, and that the files are the same.

    python benchmarks/workers.py MODEL DATA [--preprocess TEXT] [--workers 1 2] [--samples 512] [--effort fast] [--rounds 2]
                                 [--output docs/workers_table.md]

Each compile is at 4bit-avg with int8 activations, without verification; rounds take turns. Every worker has one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from compiling import one_network
from machine import commit, header, table

import onnxmpq

_STAGES = ("calibrate", "round", "sensitivity", "requantize")
_MAPPED = ("round", "sensitivity")


def main() -> None:
    parser = one_network(__doc__, "workers")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    seconds, files = measured(options)
    rows = [[str(count), *figures(some, seconds[options.workers[0]])] for count, some in seconds.items()]
    text = (
        f"# Workers\n\n{header()} Commit {commit()}.\n\n{options.model.stem}, {options.samples} samples, `{options.effort}`: medians of "
        f"{options.rounds} rounds, seconds; the last column is of the stages that are mapped, rounding and sensitivity. "
        f"The files of all are {'the same' if len(files) == 1 else 'NOT the same'}.\n\n"
    )
    text += table(["workers", *_STAGES, "whole", "times as fast"], rows)
    print(text)
    options.output.write_text(text, encoding="utf-8")


def measured(options: argparse.Namespace) -> tuple[dict[int, list[dict[str, float]]], set[bytes]]:
    """Each round's seconds by stage, by the number of workers, and the different files that were written."""
    seconds: dict[int, list[dict[str, float]]] = {count: [] for count in options.workers}
    files = set()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "out.onnx"
        for _ in range(options.rounds):
            for count, found in seconds.items():
                report = onnxmpq.compile_model(
                    options.model, "4bit-avg", options.data, output=written, activations="int8", effort=options.effort,
                    samples=options.samples, preprocess=options.preprocess, workers=count, verify=False,
                )  # fmt: skip
                found.append(dict(report.run.seconds))
                files.add(written.read_bytes())
    return seconds, files


def figures(rounds: list[dict[str, float]], first: list[dict[str, float]]) -> list[str]:
    """The medians of stages and of the whole, and how many times as fast as `first` the mapped stages are."""
    stages = [statistics.median(some.get(stage, 0.0) for some in rounds) for stage in _STAGES]
    whole = statistics.median(sum(some.values()) for some in rounds)
    gain = mapped(first) / mapped(rounds)
    return [*(f"{value:.1f}" for value in (*stages, whole)), f"{gain:.2f}"]


def mapped(rounds: list[dict[str, float]]) -> float:
    """Median seconds of the stages that workers share."""
    return statistics.median(sum(some[stage] for stage in _MAPPED) for some in rounds)


if __name__ == "__main__":
    main()
