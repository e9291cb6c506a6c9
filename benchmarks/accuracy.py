"""What a compile costs in accuracy: every network at every budget, default options, no labels used.

python benchmarks/accuracy.py [--models resnet20 ...] [--budgets 4bit-avg ...] [--activations fp32 int8]
                              [--seeds 0 ...] [--samples 512] [--output docs/accuracy_table.md]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import ROOT, header, table
from networks import Network, calibration, evaluation, networks, open_samples
from numpy.typing import NDArray

import onnxmpq
from onnxmpq.engine import Runtime
from onnxmpq.metrics import OutputKind, classes, kl_divergence

Hits = NDArray[np.bool_]  # of every image: is its top-1 class the label?

_COLUMNS = [
    "model", "budget", "activations", "seed", "average bits", "file bytes", "fp32 file bytes", "images",
    "fp32 top-1", "top-1", "drop in points (95 %)", "agreement", "KL", "compile s", "sensitivity s",
]  # fmt: skip
_NOTES = (
    "Default options on {samples} calibration samples without labels. Top-1, agreement with fp32 and KL (nats) "
    "are of all held-out images, which nothing was chosen on; the interval is a paired bootstrap over them."
)
_BATCH = 50
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Judged:
    """A compiled model beside its reference on the same images."""

    before: Hits
    after: Hits
    agreement: float
    kl: float  # nats an image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--budgets", nargs="+", default=["4bit-avg"])
    parser.add_argument("--activations", nargs="+", choices=["fp32", "int8"], default=["fp32", "int8"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "accuracy_table.md")
    options = parser.parse_args()
    rows = []
    for choice in itertools.product(
        networks(options.models), options.budgets, options.activations, options.seeds
    ):
        rows.append(row(*choice, options.samples))
        print(" | ".join(rows[-1]), flush=True)
    notes = _NOTES.format(samples=options.samples)
    text = f"# Accuracy\n\n{notes}\n\n{header()}\n\n{table(_COLUMNS, rows)}"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")


def row(network: Network, budget: str, activations: str, seed: int, samples: int) -> list[str]:
    """One line of the table: a compile and its judgement, or the error it was refused with."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "compiled.onnx"
        start = time.perf_counter()
        try:
            report = onnxmpq.compile_model(
                network.model, [budget], calibration(network, Path(scratch)), output=written,
                preprocess=network.decoding, activations=activations, samples=samples, seed=seed, provider="cpu",
            )  # fmt: skip
        except onnxmpq.OnnxmpqError as error:
            refused = f"refused: {str(error)[:160]}"
            return [network.name, budget, activations, str(seed), *["-"] * (len(_COLUMNS) - 5), refused]
        seconds = time.perf_counter() - start
        judged = judge(network, written)
    low, high = interval(judged.before, judged.after)
    before, after = 100 * judged.before.mean(), 100 * judged.after.mean()
    return [
        network.name,
        budget,
        activations,
        str(seed),
        f"{report.average_weight_bits:.3f}",
        f"{report.file_bytes:,}",
        f"{report.fp32_file_bytes:,}",
        f"{len(judged.before):,}",
        f"{before:.2f}",
        f"{after:.2f}",
        f"{before - after:.2f} ({low:.2f} to {high:.2f})",
        f"{judged.agreement:.2%}",
        f"{judged.kl:.5f}",
        f"{seconds:.1f}",
        f"{report.seconds['sensitivity']:.1f}",
    ]


def judge(network: Network, written: Path) -> Judged:
    """Run the original and the written file over all held-out images, in one streamed pass."""
    reference, model = Runtime().session(network.model), Runtime().session(written)
    data = open_samples(network, evaluation(network), samples=None)
    name = reference.outputs[0]
    before, after, equal, kl = [], [], 0, 0.0
    for batch in data.batches(_BATCH):
        expected, got = reference.run(batch.feeds)[name], model.run(batch.feeds)[name]
        before.append(classes(expected) == batch.labels)
        after.append(classes(got) == batch.labels)
        equal += int((classes(expected) == classes(got)).sum())
        kl += float(kl_divergence(expected, got, OutputKind.LOGITS).sum())
    return Judged(np.concatenate(before), np.concatenate(after), equal / data.count, kl / data.count)


def interval(before: Hits, after: Hits, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the drop in points by a paired bootstrap over images.

    An image is lost, won or neither, so a resample of all images is one draw of these three counts.
    """
    lost, won, count = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    shares = np.array([lost, won, count - lost - won]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, _RESAMPLES)
    drops = 100 * (draws[:, 0] - draws[:, 1]) / count
    low, high = np.quantile(drops, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


if __name__ == "__main__":
    main()
