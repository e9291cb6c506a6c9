"""Accuracy of compiled networks at real sizes: ours at each effort beside simpler recipes, no labels used.

python benchmarks/accuracy.py [--models resnet20 ...] [--budgets 4 3 ...] [--activations fp32 int8] [--recipes max ...]
                              [--seeds 0 ...] [--samples 512] [--minutes 60]
                              [--results docs/accuracy_results.jsonl] [--output docs/accuracy_table.md]

Budgets are bits a weight on average. What is measured is added to the results line by line; a run goes on where the
last one stopped (`--again` measures anew), and the table is made of all that is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paired
from machine import ROOT, commit, header, table
from networks import Network, calibration, evaluation, networks, open_samples
from paired import Hits

import onnxmpq
from onnxmpq.engine import Runtime
from onnxmpq.metrics import OutputKind, classes, kl_divergence

Key = tuple[str, float, str, str, int, int]

_UNIFORM, _UNIFORM_NEAREST = "uniform", "uniform, nearest"
RECIPES: Mapping[str, Mapping[str, Any]] = {
    _UNIFORM_NEAREST: {"rounding": "nearest"},
    _UNIFORM: {},
    "size": {"method": "size"},
    "fast": {"effort": "fast"},
    "balanced": {},
    "max": {"effort": "max"},
}

_COLUMNS = [
    "model", "bits", "activations", "recipe", "seeds", "average bits", "file bytes", "images", "fp32 top-1", "top-1",
    "least", "drop in points (95 %)", "agreement", "KL", "compile s",
]  # fmt: skip
_NOTES = """{samples} calibration samples without labels. Means over the seeds; `least` is the worst seed's top-1. Top-1,
agreement with fp32 and KL (nats) are of all held-out images, which nothing was chosen on; the interval is a paired
bootstrap over them, its ends averaged over the seeds. Recipes: `balanced` is the default, `fast` and `max` the other
efforts; `size` gives widths by the sizes of layers (`--method size`); `uniform` gives all layers the widest width within
the budget (2 bits at 2.5, 3 at 3.5), rounded as ours, and `uniform, nearest` the same rounded to nearest."""
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """A compiled model beside its reference on the same images."""

    before: Hits
    after: Hits
    agreement: float
    kl: float  # nats an image


@dataclass(frozen=True, slots=True)
class Result:
    """One compile and its judgement; `error` is why there is none. Top-1 and drops in points, times in seconds."""

    model: str
    budget: float
    activations: str
    recipe: str
    seed: int
    samples: int
    commit: str
    average_bits: float = 0.0
    file_bytes: int = 0
    images: int = 0
    fp32_top1: float = 0.0
    top1: float = 0.0
    lowest_drop: float = 0.0
    highest_drop: float = 0.0
    agreement: float = 0.0
    kl: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> Key:
        return self.model, self.budget, self.activations, self.recipe, self.seed, self.samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--budgets", nargs="+", type=float, default=[4.0])
    parser.add_argument("--activations", nargs="+", choices=["fp32", "int8"], default=["fp32", "int8"])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=["balanced"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing after so many")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "accuracy_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "accuracy_table.md")
    options = parser.parse_args()
    results = read(options.results)
    end = time.monotonic() + 60 * options.minutes
    for network, budget, activations, recipe, seed in itertools.product(
        networks(options.models), options.budgets, options.activations, options.recipes, options.seeds
    ):
        if time.monotonic() > end:
            break
        point = (budget, activations, recipe, seed, options.samples)
        if (network.name, *point) in results and not options.again:
            continue
        result = measured(network, *point)
        results[result.key] = result
        append(options.results, result)
        print(json.dumps(asdict(result)), flush=True)
    notes = _NOTES.format(samples=options.samples)
    shown = [result for result in results.values() if result.samples == options.samples]
    commits = ", ".join(sorted({result.commit for result in shown}))
    rows = list(means(shown))
    text = f"# Accuracy\n\n{notes}\n\n{header()} The figures were measured at {commits}.\n\n{table(_COLUMNS, rows)}"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")


def measured(
    network: Network, budget: float, activations: str, recipe: str, seed: int, samples: int
) -> Result:
    """A compile by a recipe, and its judgement."""
    blank = Result(network.name, budget, activations, recipe, seed, samples, commit())
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "compiled.onnx"
        start = time.perf_counter()
        try:
            report = onnxmpq.compile_model(
                network.model, [f"{budget:g}bit-avg"], calibration(network, Path(scratch)), output=written,
                preprocess=network.decoding, activations=activations, samples=samples, seed=seed, provider="cpu",
                **uniform_widths(recipe, budget), **RECIPES[recipe],
            )  # fmt: skip
        except onnxmpq.OnnxmpqError as error:
            return replace(blank, error=str(error))
        seconds = time.perf_counter() - start
        judged = judge(network, written)
    low, high = interval(judged.before, judged.after)
    return replace(
        blank, average_bits=report.average_weight_bits, file_bytes=report.file_bytes, images=len(judged.before),
        fp32_top1=100 * float(judged.before.mean()), top1=100 * float(judged.after.mean()), lowest_drop=low,
        highest_drop=high, agreement=judged.agreement, kl=judged.kl, seconds=seconds,
    )  # fmt: skip


def uniform_widths(recipe: str, budget: float) -> dict[str, Any]:
    """The one width of a uniform recipe."""
    return {"bits": (math.floor(budget),)} if recipe in {_UNIFORM, _UNIFORM_NEAREST} else {}


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


def interval(before: Hits, after: Hits) -> tuple[float, float]:
    """Percentile interval of the drop in points by a paired bootstrap over images, at 95 %."""
    return paired.interval(100 * (before.astype(np.float64) - after))


def means(results: Iterable[Result]) -> Iterator[list[str]]:
    """A row for each network, budget, activations and recipe, the means over the seeds."""
    order = list(RECIPES)
    known = sorted(results, key=lambda r: (r.model, -r.budget, r.activations, order.index(r.recipe), r.seed))
    for place, group in itertools.groupby(known, key=lambda r: r.key[:4]):
        some = list(group)
        model, budget, activations, recipe = place
        start = [model, f"{budget:g}", activations, recipe, ", ".join(str(r.seed) for r in some)]
        good = [r for r in some if not r.error]
        yield [*start, *(_cells(good) if len(good) == len(some) else _refused(some))]


def _refused(results: Sequence[Result]) -> list[str]:
    error = next(result.error for result in results if result.error)
    return [*["-"] * (len(_COLUMNS) - 6), f"refused: {error[:160]}"]


def _cells(results: Sequence[Result]) -> list[str]:
    def mean(name: str) -> float:
        return float(np.mean([getattr(result, name) for result in results]))

    drop = mean("fp32_top1") - mean("top1")
    return [
        f"{mean('average_bits'):.3f}",
        f"{mean('file_bytes'):,.0f}",
        f"{results[0].images:,}",
        f"{mean('fp32_top1'):.2f}",
        f"{mean('top1'):.2f}",
        f"{min(result.top1 for result in results):.2f}",
        f"{drop:.2f} ({mean('lowest_drop'):.2f} to {mean('highest_drop'):.2f})",
        f"{mean('agreement'):.2%}",
        f"{mean('kl'):.5f}",
        f"{mean('seconds'):.1f}",
    ]


def read(path: Path) -> dict[Key, Result]:
    """What was measured, the last of each point."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = (Result(**json.loads(line)) for line in lines)
    return {result.key: result for result in found}


def append(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()
