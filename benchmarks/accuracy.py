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
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paired
import peers
from held_out import HeldOut
from loaded import changed, load
from machine import ROOT, commit, origin, table, versions
from networks import Network, calibration, networks
from paired import Hits

from onnxmpq.budgets.budget import Budget
from onnxmpq.check.stage import forced_by, narrowed
from onnxmpq.context.setting import Loaded
from onnxmpq.context.splits import divide
from onnxmpq.errors import OnnxmpqError
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.metrics.metric import classes, kl_divergence
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import drafted, planned, rounded
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods import METHODS, Method
from onnxmpq.sensitivity.stage import measure
from onnxmpq.values.costs import Sensitivity
from onnxmpq.values.effort import EFFORTS, Effort
from onnxmpq.values.option import Options
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.plan import average_bits

Key = tuple[str, float, str, str, int, int]

_UNIFORM, _UNIFORM_NEAREST = "uniform", "uniform, nearest"
RECIPES: Mapping[str, Mapping[str, Any]] = {
    _UNIFORM_NEAREST: {"rounding": "nearest"},
    _UNIFORM: {},
    "size": {"method": "size"},
    "fast": {"effort": "fast"},
    "balanced": {},
}

_COLUMNS = [
    "model", "bits", "activations", "recipe", "seeds", "average bits", "file bytes", "images", "fp32 top-1", "top-1",
    "least", "drop in points (95 %)", "agreement", "KL", "compile s", "commit",
]  # fmt: skip
_NOTES = """{samples} calibration samples without labels. Means over the seeds; `least` is the worst seed's top-1. Top-1,
agreement with fp32 and KL (nats) are of all held-out images, which nothing was chosen on; the interval is a paired
bootstrap over them, its ends averaged over the seeds. Recipes: `balanced` is the default, `fast` and `max` the other
efforts; `size` gives widths by the sizes of layers (`--method size`); `uniform` gives all layers the widest width within
the budget (2 bits at 2.5, 3 at 3.5 and 3.6), rounded as ours, and `uniform, nearest` the same rounded to nearest. Seconds are of all stages
up to the file; what recipes share (loading, calibration, rounding at all widths, sensitivity) was done once and counts for each. Other
measurements ran beside, so they tell the order of magnitude."""


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
    origin: str = ""  # date, processor and cores

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
    for network in networks(options.models):
        for result in measured(network, results, options, end):
            results[result.key] = result
            append(options.results, result)
            print(json.dumps(asdict(result)), flush=True)
    notes = _NOTES.format(samples=options.samples)
    shown = [result for result in results.values() if result.samples == options.samples]
    places = "\n".join(f"- {where}" for where in sorted({result.origin for result in shown}))
    ours = table(_COLUMNS, list(means(shown)))
    text = f"# Accuracy\n\n{notes}\n\nMeasured with {versions()}:\n\n{places}\n\n{ours}\n{peers.section()}"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")


def measured(
    network: Network, known: Mapping[Key, Result], options: argparse.Namespace, end: float
) -> Iterator[Result]:
    """What is still to be measured of a network, one seed and kind of activations at a time."""
    held_out = HeldOut(network, Runtime())
    for seed, activations in itertools.product(options.seeds, options.activations):
        missing = [
            (recipe, budget)
            for budget, recipe in itertools.product(options.budgets, options.recipes)
            if options.again
            or (network.name, budget, activations, recipe, seed, options.samples) not in known
        ]
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(held_out, activations, seed, options.samples, Path(scratch))
            for recipe, budget in missing:
                if time.monotonic() > end:
                    return
                yield bench.result(recipe, budget)


class Bench:
    """A network loaded, calibrated and rounded once for a seed and activations: every recipe goes on from there."""

    def __init__(self, held_out: HeldOut, activations: str, seed: int, samples: int, scratch: Path) -> None:
        self.held_out, self.activations, self.seed, self.samples = held_out, activations, seed, samples
        self.scratch, self.commit = scratch, commit()
        self.lowerings: dict[tuple[str, bool], Lowering] = {}
        self.costs: dict[tuple[Method, str, bool, int], tuple[Sensitivity, float]] = {}

    def result(self, recipe: str, budget: float) -> Result:
        """What the recipe comes to at that budget, judged."""
        blank = Result(
            self.held_out.network.name, budget, self.activations, recipe, self.seed, self.samples, self.commit,
            origin=origin(),
        )  # fmt: skip
        try:
            draft, seconds = self.drafted(recipe, budget)
        except OnnxmpqError as error:
            return replace(blank, error=str(error))
        model = draft.written()
        judged = judge(self.held_out, model)
        low, high = interval(judged.before, judged.after)
        return replace(
            blank, average_bits=average_bits(draft.prepared.layers, draft.plan), file_bytes=model.ByteSize(),
            images=len(judged.before), fp32_top1=100 * float(judged.before.mean()),
            top1=100 * float(judged.after.mean()), lowest_drop=low, highest_drop=high,
            agreement=judged.agreement, kl=judged.kl, seconds=seconds,
        )  # fmt: skip

    def drafted(self, recipe: str, budget: float) -> tuple[Draft, float]:
        """The recipe's plan and weights, as a compile finds them, and seconds with all that it shares with others."""
        base = self.rounded(RECIPES[recipe].get("rounding", ROUNDINGS[0]), _effort(recipe))
        stages = Stages(Observer(), dict(base.setting.stages.seconds))
        lowering = narrowed(asked(self.loaded, base, stages, recipe, budget))
        costs, seconds = self.measured(lowering)
        draft, _ = drafted(planned(lowering, costs))
        return draft, seconds + sum(stages.seconds.values())

    @cached_property
    def loaded(self) -> Loaded:
        """The network and its calibration images, without their labels."""
        network, stages = self.held_out.network, Stages(Observer())
        with stages("load"):
            data = calibration(network, self.scratch)
            return load(
                network, self.held_out.runtime, data, self.activations, self.seed, self.samples, stages
            )

    def rounded(self, rounding: str, effort: Effort) -> Lowering:
        """The network with its weights rounded, which is done once for what they are rounded against."""
        key = rounding, effort.mirrors
        if key not in self.lowerings:
            request = changed(self.loaded.request, rounding=rounding, effort=effort)
            stages = Stages(Observer(), dict(self.loaded.stages.seconds))
            self.lowerings[key] = rounded(replace(self.loaded, request=request, stages=stages))
        return self.lowerings[key]

    def measured(self, lowering: Lowering) -> tuple[Sensitivity, float]:
        """Costs of the options and the seconds that they took; of each method and count of samples once."""
        setting = lowering.setting
        if setting.forced is not None:
            return measure(setting, lowering.candidates), 0.0
        request = setting.request
        key = (
            request.search.method,
            request.quantizers.rounding,
            request.search.effort.mirrors,
            setting.splits.sensitivity.count,
        )
        if key not in self.costs:
            start = time.perf_counter()
            self.costs[key] = measure(setting, lowering.candidates), time.perf_counter() - start
        return self.costs[key]


def asked(loaded: Loaded, base: Lowering, stages: Stages, recipe: str, budget: float) -> Lowering:
    """The rounded network under the recipe's own request."""
    method = RECIPES[recipe].get("method", "measured")
    request = changed(
        base.setting.request, budgets=(Budget.parse(f"{budget:g}bit-avg"),), method=METHODS[method],
        effort=_effort(recipe),
    )  # fmt: skip
    setting = replace(
        base.setting, request=request, stages=stages, splits=divide(loaded.evidence, request),
        options=uniform(base.setting.options, recipe, budget), forced=None,
    )  # fmt: skip
    return replace(base, setting=forced_by(setting))


def _effort(recipe: str) -> Effort:
    return EFFORTS[RECIPES[recipe].get("effort", "balanced")]


def uniform(options: Options, recipe: str, budget: float) -> Options:
    """The one width of a uniform recipe, else all."""
    if recipe not in {_UNIFORM, _UNIFORM_NEAREST}:
        return options
    within = {name: [o for o in some if o.weight_bits <= budget] for name, some in options.items()}
    return {name: (max(within[name], default=some[0]),) for name, some in options.items()}


def judge(held_out: HeldOut, model: onnx.ModelProto) -> Judged:
    """Run a file over all held-out images, in one streamed pass."""
    before, after, equal, kl = [], [], 0, 0.0
    for _, expected, got, labels in held_out.outputs({"": held_out.runtime.session(model)}):
        before.append(classes(expected) == labels)
        after.append(classes(got) == labels)
        equal += int((classes(expected) == classes(got)).sum())
        kl += float(kl_divergence(expected, got, OutputKind.LOGITS).sum())
    count = held_out.images.count
    return Judged(np.concatenate(before), np.concatenate(after), equal / count, kl / count)


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
        ", ".join(dict.fromkeys(result.commit for result in results)),
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
