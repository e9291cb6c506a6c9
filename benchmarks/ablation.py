"""What single parts of a compile buy: a compile without each beside the whole one, on images that nothing was chosen on.

python benchmarks/ablation.py [--models resnet20 ...] [--budgets 3 ...] [--variants base no-mirrors ...] [--seeds 0 ...]
                              [--samples 512] [--minutes 60] [--results docs/ablation_results.jsonl]
                              [--output docs/ablation_table.md]

Budgets are bits a weight on average, activations int8. Seconds are of processors, and what variants share was done once
and counts for each: on one core (`taskset -c 0`) they are alike from run to run, whatever else the machine does. What is
measured is added to the results line by line. A run goes on where the last one with the same code stopped, and the table
is made of all that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accuracy import Judged, judge
from held_out import HeldOut
from loaded import changed, load
from machine import ROOT, commit, header, table
from networks import calibration, networks

from onnxmpq.allocate.stage import allocate
from onnxmpq.budgets.budget import Budget
from onnxmpq.check.stage import narrowed
from onnxmpq.context.setting import Loaded
from onnxmpq.context.splits import divide
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import rounded
from onnxmpq.requantize.logit_scale import best_logit_scale, with_logit_scale
from onnxmpq.requantize.stage import is_requantized, rounded_again
from onnxmpq.request import Request
from onnxmpq.runtime.session import Runtime
from onnxmpq.search.stage import is_searched, search
from onnxmpq.sensitivity.stage import measure
from onnxmpq.values.costs import CostTable
from onnxmpq.values.plan import average_bits
from onnxmpq.values.quantized_weight import Grids
from onnxmpq.values.target import Target

T = TypeVar("T")
Key = tuple[str, int, float, str, str, int]
BASE = "base"
_SILENT = Observer().progress
_COLUMNS = [
    "model", "samples", "bits", "without", "seeds", "KL", "ratio to base", "of each seed", "agreement, points",
    "top-1, points", "CPU s", "ratio to base", "commit",
]  # fmt: skip
_NOTES = """Calibration samples without labels, int8 activations. KL (nats), agreement with fp32 and top-1 are of all held-out
images, which nothing was chosen on. Ratios and differences are to the same compile by the same code with nothing left out
(`base`), seed by seed; means over the seeds, of ratios geometric. `no-mirrors` rounds against samples as they are only,
`no-odd` has no odd codes of two bits, `no-factor` leaves logits as they are. At c0df4fb the whole compile saw moments within the
maps before a global pool as well and tried swaps of widths around the plan, and up to b3d2316 it tried requantizing on half of the
samples first. These parts are gone: the results without them (`no-within`, `no-swaps`, `no-trial`, and `no-trial-half`, which
scaled logits by the trial) are in the file, not in the table."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What a compile has."""

    mirrors: bool = True
    odd: bool = True
    scales: bool = True

    @property
    def kind(self) -> Variant:
        """The variant as far as rounding and sensitivities go."""
        return Variant(mirrors=self.mirrors, odd=self.odd)


VARIANTS: Mapping[str, Variant] = {
    BASE: Variant(),
    "no-mirrors": Variant(mirrors=False),
    "no-odd": Variant(odd=False),
    "no-factor": Variant(scales=False),
}


class EvenTarget(Target):
    """A target whose files hold no odd codes of two bits."""

    __slots__ = ()

    @property
    def grids(self) -> Grids:
        return replace(super().grids, odd=False)


@dataclass(frozen=True, slots=True)
class Result:
    """One compile and its judgement.

    `parts` are the seconds of its stages, `told` is what became of them, `file` tells the same files from others.
    """

    model: str
    budget: float
    variant: str
    seed: int
    samples: int
    kl: float
    agreement: float
    top1: float
    fp32_top1: float
    seconds: float
    average_bits: float
    file_bytes: int
    file: str
    parts: Mapping[str, float]
    told: Mapping[str, Any]
    commit: str
    origin: str  # date, processor and cores, and versions

    @property
    def key(self) -> Key:
        return self.model, self.samples, self.budget, self.commit, self.variant, self.seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.5, 3.0, 4.0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing after so many")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "ablation_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "ablation_table.md")
    options = parser.parse_args()
    known = read(options.results)
    for result in measured(known, options, time.monotonic() + 60 * options.minutes):
        known[result.key] = result
        line = json.dumps(asdict(result))
        with options.results.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
        print(line, flush=True)
    places = "\n".join(f"- {where}" for where in sorted({result.origin for result in known.values()}))
    text = f"# Ablation\n\n{_NOTES}\n\nMeasured on:\n\n{places}\n\n{table(_COLUMNS, list(rows(known)))}"
    options.output.write_text(text, encoding="utf-8")


def measured(known: Mapping[Key, Result], options: argparse.Namespace, end: float) -> Iterator[Result]:
    """What is still to be measured, one network and seed at a time, budgets and variants in the order given."""
    code = commit()
    for network in networks(options.models):
        if time.monotonic() >= end:
            return
        held_out = HeldOut(network, Runtime())
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                bench = Bench(held_out, seed, options.samples, code, Path(scratch))
                for budget, variant in itertools.product(options.budgets, options.variants):
                    if time.monotonic() >= end:
                        return
                    if (network.name, options.samples, budget, code, variant, seed) not in known:
                        yield bench.result(variant, budget)


class Bench:
    """The compiles of a network for a seed: stages that variants share are done once, and counted for each."""

    def __init__(self, held_out: HeldOut, seed: int, samples: int, code: str, scratch: Path) -> None:
        self.held_out, self.seed, self.samples, self.code = held_out, seed, samples, code
        self.scratch = scratch
        self.done: dict[tuple[str, object], tuple[Any, float]] = {}
        self.parts: dict[str, float] = {}  # of the compile that is under way
        self.judged: dict[str, Judged] = {}

    def result(self, name: str, budget: float) -> Result:
        """The variant at that budget, judged."""
        self.parts = {}
        draft, told = self.compiled(VARIANTS[name], budget)
        model = self.once("write", (name, budget), draft.written)
        file = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]
        if file not in self.judged:
            self.judged[file] = judge(self.held_out, model)
        judged = self.judged[file]
        return Result(
            self.held_out.network.name, budget, name, self.seed, self.samples, judged.kl, judged.agreement,
            float(judged.after.mean()), float(judged.before.mean()), sum(self.parts.values()),
            average_bits(draft.units, draft.plan), model.ByteSize(), file, self.parts, told, self.code, header(),
        )  # fmt: skip

    def once(self, stage: str, key: object, make: Callable[[], T]) -> T:
        """What a stage gives, made where no variant has made it yet; its seconds are counted in any case."""
        if (stage, key) not in self.done:
            start = sum(os.times()[:4])
            value = make()
            self.done[stage, key] = value, sum(os.times()[:4]) - start
        value, self.parts[stage] = self.done[stage, key]
        return value

    def compiled(self, variant: Variant, budget: float) -> tuple[Draft, dict[str, Any]]:
        """What would ship, and what became of its parts."""
        kind, lowering = variant.kind, self.lowering(variant, budget)
        costs = self.once("sensitivity", kind, lambda: measured_costs(lowering))
        plan, found = self.once(
            "plan", (kind, budget), lambda: search(lowering, allocate(lowering, costs, None))
        )
        draft = self.lowering(variant, budget).draft(plan)
        if not is_requantized(draft):
            raise SystemExit("nothing is requantized at that budget: most variants would be alike")
        final, factor = self.requantized(variant, draft)
        return final, {"rival": found.rival, "factor": factor}

    def loaded(self) -> Loaded:
        """The network and its calibration images, without their labels."""
        network = self.held_out.network
        data = calibration(network, self.scratch)
        stages = Stages(Observer())
        return load(network, self.held_out.runtime, data, "int8", self.seed, self.samples, stages)

    def lowering(self, variant: Variant, budget: float) -> Lowering:
        """The rounded network at that budget; no compile finds in memory what another one has read."""
        loaded = self.once("load", None, self.loaded)
        request = asked(loaded.request, variant)
        known = self.once("round", variant.kind, lambda: rounded(replace(loaded, request=request)))
        request = changed(request, budgets=(Budget.parse(f"{budget:g}bit-avg"),))
        setting = replace(known.setting, request=request, splits=divide(loaded.evidence, request))
        return narrowed(replace(known, setting=setting))

    def requantized(self, variant: Variant, draft: Draft) -> tuple[Draft, float]:
        """The draft requantized, its logits scaled, and by how much; what is alike for variants with one plan is done once."""
        key = variant.kind, tuple(draft.plan.options.items())
        final = self.once("again", key, lambda: rounded_again(draft))
        factor = self.once("factor", key, lambda: best_logit_scale(final)) if variant.scales else 1.0
        return with_logit_scale(final, factor), factor


def asked(request: Request, variant: Variant) -> Request:
    """The request as the variant wants it."""
    effort = request.search.effort
    request = changed(request, effort=replace(effort, mirrors=variant.mirrors))
    rules = {some.name: getattr(request.target, some.name) for some in fields(Target)}
    return request if variant.odd else replace(request, target=EvenTarget(**rules))


def measured_costs(lowering: Lowering) -> CostTable:
    """The costs of all options."""
    costs = measure(lowering.setting, lowering.candidates)
    if not isinstance(costs, CostTable) or not is_searched(lowering.setting):
        raise SystemExit("the budget leaves one plan only, or the samples are too few: nothing is searched")
    return costs


def rows(known: Mapping[Key, Result]) -> Iterator[list[str]]:
    """A row for each network, count of samples, budget, code and variant; results without a base are left out."""
    order = list(VARIANTS)
    results = sorted(known.values(), key=lambda r: (*r.key[:4], order.index(r.variant), r.seed))
    for place, group in itertools.groupby(results, key=lambda r: r.key[:5]):
        model, samples, budget, code, variant = place
        bases = {r.seed: r for r in results if r.key[:5] == (*place[:4], BASE)}
        pairs = [(result, bases[result.seed]) for result in group if result.seed in bases]
        if pairs:
            seeds = ", ".join(str(result.seed) for result, _ in pairs)
            yield [model, str(samples), f"{budget:g}", variant, seeds, *cells(pairs), code]


def cells(pairs: Sequence[tuple[Result, Result]]) -> list[str]:
    """The figures of one row, each result beside its base."""
    ratios = [result.kl / base.kl for result, base in pairs]
    return [
        f"{np.mean([result.kl for result, _ in pairs]):.5f}",
        f"{geometric(ratios):.3f}",
        ", ".join(f"{ratio:.3f}" for ratio in ratios),
        points([result.agreement - base.agreement for result, base in pairs]),
        points([result.top1 - base.top1 for result, base in pairs]),
        f"{np.mean([result.seconds for result, _ in pairs]):.1f}",
        f"{geometric([result.seconds / base.seconds for result, base in pairs]):.3f}",
    ]


def points(shares: Sequence[float]) -> str:
    """Their mean in points, which is never -0.00."""
    return f"{round(100 * float(np.mean(shares)), 2) + 0.0:+.2f}"


def geometric(ratios: Sequence[float]) -> float:
    """Their geometric mean."""
    return float(np.exp(np.mean(np.log(ratios))))


def read(path: Path) -> dict[Key, Result]:
    """What was measured of the variants that there are, the last of each point."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = [Result(**json.loads(line)) for line in lines]
    return {result.key: result for result in results if result.variant in VARIANTS}


if __name__ == "__main__":
    main()
