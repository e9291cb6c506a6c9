"""Budgets on the loss of function, held against images that no compile saw.

python benchmarks/drops.py [--models resnet20 ...] [--limits 1 2] [--samples 512 ...] [--seeds 0 1 2]
                           [--output docs/drops_table.md]

Such a budget is judged on half of the calibration samples, which rounding and costs do not see; the smallest plan that
keeps it there is found by bisection. The table tells how often it holds on the test images.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import ROOT, commit, header, table
from networks import Network, calibration, evaluation, labelled_calibration, networks

from onnxmpq import Report, compile_model
from onnxmpq.errors import InfeasibleError

_COLUMNS = [
    "model", "budget", "samples", "labels", "seeds", "bits", "file bytes", "top-1 lost, points", "classes changed %", "holds",
]  # fmt: skip
_NOTES = (
    "Compiles with `drop=` and default options otherwise. With labels the budget is on top-1, without on the share of images "
    "whose class changes; half of the samples judge it, one standard error included. The losses are those on the test images, one "
    "figure a seed; `holds` counts the seeds whose loss there is within the budget, in its own terms (a refused compile is none)."
)
_EXACTLY = 1e-9  # the difference of two shares of the images may exceed itself by so much


@dataclass(frozen=True, slots=True)
class Case:
    """What a row is of: a network, the budget in per cent, and the samples that it is kept on."""

    network: Network
    limit: float
    samples: int
    labels: bool

    def holds(self, found: Outcome) -> bool:
        """True where the budget holds on the test images, in its own terms."""
        return 100 * (found.lost if self.labels else found.changed) <= self.limit + _EXACTLY


@dataclass(frozen=True, slots=True)
class Outcome:
    """One compile: what the file takes, and what is lost on the test images, both as shares."""

    bits: float
    file_bytes: int
    lost: float
    changed: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--limits", nargs="+", type=float, default=[1.0, 2.0], help="per cent")
    parser.add_argument("--samples", nargs="+", type=int, default=[512])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "drops_table.md")
    options = parser.parse_args()
    rows = list(measured(options))
    parts = ["# Budgets on the loss of function", _NOTES, f"{header()[:-1]}, at {commit()}."]
    options.output.write_text("\n\n".join([*parts, table(_COLUMNS, rows)]), encoding="utf-8")


def measured(options: argparse.Namespace) -> Iterator[list[str]]:
    chosen = networks(options.models)
    for case in itertools.starmap(
        Case, itertools.product(chosen, options.limits, options.samples, (False, True))
    ):
        outcomes = [compiled(case, seed) for seed in options.seeds]
        row = cells(case, options.seeds, outcomes)
        print(*row, sep="  ", flush=True)
        yield row


def compiled(case: Case, seed: int) -> Outcome | None:
    """A compile under the budget; None where it is refused."""
    network = case.network
    with tempfile.TemporaryDirectory() as folder:
        data = labelled_calibration(network) if case.labels else calibration(network, Path(folder))
        try:
            report = compile_model(
                network.model, [f"drop={case.limit:g}%"], data, output=Path(folder) / "out.onnx", samples=case.samples,
                seed=seed, evaluation=evaluation(network), preprocess=network.decoding,
            )  # fmt: skip
        except InfeasibleError as error:
            print(f"{network.name}, {case.limit:g} %, seed {seed}: {error}")
            return None
        return outcome(report)


def outcome(report: Report) -> Outcome:
    before, after = report.quality.metrics["fp32"], report.quality.metrics["compiled"]
    assert before.top1 is not None
    assert after.top1 is not None
    assert after.agreement is not None
    return Outcome(
        report.size.average_weight_bits, report.size.file_bytes, before.top1 - after.top1, 1 - after.agreement
    )


def cells(case: Case, seeds: Sequence[int], outcomes: Sequence[Outcome | None]) -> list[str]:
    """One row: means of the file, and every seed's loss."""
    labels, named = "yes" if case.labels else "no", ", ".join(map(str, seeds))
    start = [case.network.name, f"{case.limit:g} %", f"{case.samples:,}", labels, named]
    found = [outcome for outcome in outcomes if outcome is not None]
    if not found:
        return [*start, *["-"] * 4, f"refused: {len(outcomes)}"]
    return [
        *start,
        f"{np.mean([o.bits for o in found]):.2f}",
        f"{np.mean([o.file_bytes for o in found]):,.0f}",
        ", ".join(f"{100 * o.lost:.2f}" for o in found),
        ", ".join(f"{100 * o.changed:.2f}" for o in found),
        f"{sum(map(case.holds, found))} of {len(outcomes)}",
    ]


if __name__ == "__main__":
    main()
