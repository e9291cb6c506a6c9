"""Every calibrator on equal terms: 8-bit weights, int8 or int4 activations, judged on calibration images it never saw.

python benchmarks/calibrators.py [--models resnet20 ...] [--bits 8 4] [--seeds 0 1 2] [--samples 512]
                                 [--results docs/calibrators_results.jsonl] [--output docs/calibrators_table.md]

The default calibrators are chosen by this table, so no test set is looked at. What is measured is added to the results
line by line; a run goes on where the last one stopped, and the table is made of all that is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from machine import ROOT, header, table
from networks import Network, calibration, networks, open_samples

from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.calibrate.measure_ranges import calibrate
from onnxmpq.context.prepared import Activations
from onnxmpq.data import Dataset
from onnxmpq.lower.lower_plan import lower
from onnxmpq.metrics.metric import classes, kl_divergence
from onnxmpq.normalize.prepare import prepare
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.place.kernels import place_activations
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.activation_range import CodeType
from onnxmpq.values.option import Option
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import find_target

_BATCH = 50
_BITS = 8
_COLUMNS = ["model", "activations", "calibrator", "KL", "least", "largest", "agreement %", "seconds"]
_NOTES = (
    "Weights of 8 bits, rounded to nearest, and activations of 8 or 4; ranges from {samples} calibration images, or half of "
    "those there are, and KL to fp32 in nats on as many others of them, never on a test set. Mean over the seeds (least "
    "and largest beside it); seconds are those of one calibration. The last table takes KL in units of `mean_minmax_3sigma`'s on "
    "the same model, activations and seed, as geometric means over all."
)


@dataclass(frozen=True, slots=True)
class Result:
    """One calibrator on one split of the calibration images."""

    model: str
    calibrator: str
    seed: int
    samples: int
    kl: float
    agreement: float
    seconds: float
    bits: int = 8  # of activations

    @property
    def key(self) -> tuple[str, int, int]:
        return self.model, self.bits, self.seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--bits", nargs="+", type=int, choices=[8, 4], default=[8, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "calibrators_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "calibrators_table.md")
    options = parser.parse_args()
    results = read(options.results)
    for network, bits, seed in itertools.product(networks(options.models), options.bits, options.seeds):
        if (network.name, bits, seed) in {result.key for result in results}:
            continue
        found = list(measured(network, bits, seed, options.samples))
        with options.results.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(result)) + "\n" for result in found)
        results += found
        print(*found, sep="\n", flush=True)
    options.output.write_text(report(results, options.samples), encoding="utf-8")


def measured(network: Network, bits: int, seed: int, samples: int) -> Iterator[Result]:
    """All calibrators on one split."""
    runtime = Runtime(fuses=bits == _BITS)
    with tempfile.TemporaryDirectory() as folder:
        everything = open_samples(network, calibration(network, Path(folder)), samples=None)
        some, others = everything.split(0.5, seed)
        seen, held = (part.take(range(min(samples, part.count))).remembered() for part in (some, others))
        model = load_model(network.model)
        reference = runtime.session(model)
        compiler = _Compiler(runtime, model, seen, bits)
        for name in CALIBRATORS:
            start = time.perf_counter()
            activations = compiler.calibrated(name)
            seconds = time.perf_counter() - start
            session = runtime.session(compiler.lowered(activations), simulated=True)
            kl, agreement = judged(reference, session, held)
            yield Result(network.name, name, seed, seen.count, kl, agreement, seconds, bits)


class _Compiler:
    """A network prepared, its Q/DQ pairs placed and its weights rounded: what all calibrators have in common."""

    def __init__(self, runtime: Runtime, model: onnx.ModelProto, seen: Dataset, bits: int) -> None:
        self.runtime, self.seen, self.bits = runtime, seen, bits
        sample = next(seen.batches(1)).feeds
        self.prepared = prepare(runtime, model, sample, integer=True, batchable=True)
        names = [layer.name for layer in self.prepared.layers if layer.reason is None]
        self.placement = place_activations(import_graph(self.prepared.model), self.prepared.layers, names)
        integer = self.placement.integer_layers
        self.plan = Plan({name: Option(_BITS, bits if name in integer else None) for name in names})
        self.candidates = Candidates(self.prepared.model, "nearest")

    def calibrated(self, name: str) -> Activations:
        ranges = calibrate(
            self.runtime, self.prepared.model, self.placement, self.seen, CALIBRATORS[name], codes=CodeType(self.bits)
        )  # fmt: skip
        return Activations(self.placement, ranges)

    def lowered(self, activations: Activations) -> onnx.ModelProto:
        target = find_target("portable").on("vnni").computing(self.bits)
        return lower(self.prepared, self.plan, self.candidates, activations, target)


def judged(reference: Session, session: Session, held: Dataset) -> tuple[float, float]:
    """Mean KL to the original in nats, and the share of images whose class stays."""
    name = reference.outputs[0]
    kl, same = 0.0, 0
    for batch in held.batches(_BATCH):
        expected, found = reference.run(batch.feeds)[name], session.run(batch.feeds)[name]
        kl += float(kl_divergence(expected, found, OutputKind.LOGITS).sum())
        same += int((classes(expected) == classes(found)).sum())
    return kl / held.count, same / held.count


def read(path: Path) -> list[Result]:
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def report(results: Sequence[Result], samples: int) -> str:
    places = sorted({(r.model, -r.bits) for r in results})
    rows = [
        _row([r for r in results if (r.model, -r.bits, r.calibrator) == (*place, name)])
        for place, name in itertools.product(places, CALIBRATORS)
    ]
    widths = sorted({result.bits for result in results}, reverse=True)
    ratios = [
        [name, *(_ratio([r for r in results if r.bits == b], name) for b in widths)] for name in CALIBRATORS
    ]
    parts = ["# Calibrators", _NOTES.format(samples=samples), header(), table(_COLUMNS, rows)]
    return "\n".join(f"{part}\n" for part in parts) + table(
        ["calibrator", *(f"KL at {bits} bits, mean_minmax_3sigma's = 1" for bits in widths)], ratios
    )


def _row(some: Sequence[Result]) -> list[str]:
    losses = [result.kl for result in some]
    agreement, seconds = (np.mean([getattr(r, field) for r in some]) for field in ("agreement", "seconds"))
    figures = [f"{value:.3g}" for value in (np.mean(losses), min(losses), max(losses))]
    return [
        some[0].model,
        f"int{some[0].bits}",
        some[0].calibrator,
        *figures,
        f"{100 * agreement:.2f}",
        f"{seconds:.1f}",
    ]


def _ratio(results: Sequence[Result], name: str) -> str:
    """Geometric mean of KL in units of `mean_minmax_3sigma`'s."""
    losses = {(r.key, r.calibrator): r.kl for r in results}
    keys = {result.key for result in results}
    return f"{np.exp(np.mean([np.log(losses[key, name] / losses[key, 'mean_minmax_3sigma']) for key in keys])):.3f}"


if __name__ == "__main__":
    main()
