"""Every sensitivity method on equal terms: one quantizer, one size count, the same images, several seeds.

python benchmarks/methods.py [--models resnet20 ...] [--methods measured ompq ...] [--budgets 2.5 3 ...]
                             [--roundings nearest compensated] [--seeds 0 1 2] [--samples 512] [--search-samples N]
                             [--minutes 60] [--results docs/methods_results.jsonl]
                             [--judgements docs/methods_judgements.jsonl] [--output docs/methods_table.md]

What is measured is added to the results line by line; a run goes on where the last one stopped, and the table and
the plot are made of all that is there. A method looks once for each network, rounding and seed (once for both roundings
where it does not look at rounded weights); all budgets use that, and a file that came up before is not judged again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from judgements import Judge, Judgements, digest
from loaded import changed, load
from machine import ROOT, commit
from methods_report import plot, report
from networks import Network, labelled_calibration, networks
from points import Key, Point, append, read

from onnxmpq.allocate.stage import allocate
from onnxmpq.budgets.budget import Budget
from onnxmpq.errors import OnnxmpqError
from onnxmpq.lower.draft import Draft, Lowering
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import rounded
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.runtime.session import Runtime
from onnxmpq.search.stage import search
from onnxmpq.sensitivity.methods import METHODS, Method
from onnxmpq.sensitivity.methods.csmpq import as_published as csmpq_as_published
from onnxmpq.sensitivity.methods.greedy import Greedy, greedy
from onnxmpq.sensitivity.methods.ompq import as_published as ompq_as_published
from onnxmpq.sensitivity.methods.semilayer import Semilayers
from onnxmpq.sensitivity.stage import measure
from onnxmpq.values.costs import CostTable, Sensitivity
from onnxmpq.values.plan import average_bits


@dataclass(frozen=True, slots=True)
class Contender:
    """A method, and how the benchmark runs it.

    `searched`: rivals of its plan are judged on samples held out, as a compile does. `blind`: it never looks at
    rounded weights.
    """

    method: Method
    searched: bool = False
    blind: bool = False

    @property
    def dear(self) -> bool:
        """It evaluates at every step, on as many images as --search-samples says."""
        return isinstance(self.method, Greedy | Semilayers)

    def seeing(self, images: int | None) -> Method:
        """The method, if dear on so many images at most."""
        return replace(self.method, images=images) if self.dear else self.method  # type: ignore[type-var]


_BLIND = ("size", "csmpq", "ompq", "limpq")
CONTENDERS: Mapping[str, Contender] = {
    "measured": Contender(METHODS["measured"]),
    "measured, searched": Contender(METHODS["measured"], searched=True),
    **{
        name: Contender(method, blind=name in _BLIND)
        for name, method in METHODS.items()
        if name != "measured"
    },
    "greedy, frozen order": Contender(replace(greedy, updated=False)),
    "csmpq, as published": Contender(csmpq_as_published, blind=True),
    "ompq, as published": Contender(ompq_as_published, blind=True),
}


def main() -> None:
    options = parsed()
    points = {point.key: point for point in read(options.results) if point.calibration == options.samples}
    judgements = Judgements(options.judgements)
    end = time.monotonic() + 60 * options.minutes
    chosen = [n for n in networks(options.models) if options.models or n.name != "squeezenet"]
    for network, seed in itertools.product(chosen, options.seeds):
        missing = sorted(gaps(points, network.name, seed, options), key=lambda gap: CONTENDERS[gap[1]].dear)
        if not missing or time.monotonic() > end:
            continue
        bench = Bench(network, seed, options.samples, options.search_samples, judgements)
        for rounding, method, budgets in missing:
            if time.monotonic() > end:
                break
            for point in bench.points(rounding, method, budgets):
                points[point.key] = point
                append(options.results, point)
                print(json.dumps(asdict(point)), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = list(points.values())
    options.output.write_text(report(found, judgements, options.samples), encoding="utf-8")
    plot(found, judgements, options.output.with_suffix(".png"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    docs = ROOT / "docs"
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--methods", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.5, 3.0, 3.5, 4.0, 5.0])
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=list(reversed(ROUNDINGS)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument(
        "--search-samples", type=int, help="at most so many for greedy and semilayer (default: as all others)"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no method after so many")
    parser.add_argument("--results", type=Path, default=docs / "methods_results.jsonl")
    parser.add_argument("--judgements", type=Path, default=docs / "methods_judgements.jsonl")
    parser.add_argument("--output", type=Path, default=docs / "methods_table.md")
    return parser.parse_args()


def gaps(
    known: Container[Key], model: str, seed: int, options: argparse.Namespace
) -> Iterator[tuple[str, str, list[float]]]:
    """The budgets of each rounding and method that have no point yet."""
    for method, rounding in itertools.product(options.methods, options.roundings):
        budgets = [
            b for b in options.budgets if (model, rounding, method, seed, b, options.samples) not in known
        ]
        if budgets:
            yield rounding, method, budgets


class Bench:
    """A network prepared, its weights rounded, ready to be judged: what all methods have in common."""

    def __init__(
        self, network: Network, seed: int, samples: int, search_samples: int | None, judgements: Judgements
    ) -> None:
        self.network, self.seed = network, seed
        self.samples, self.search_samples = samples, search_samples
        self.runtime, self.commit = Runtime(), commit()
        data, stages = labelled_calibration(network), Stages(Observer())
        self.loaded = load(network, self.runtime, data, "fp32", seed, samples, stages)
        self.judge = Judge(network, self.runtime, judgements)
        self.lowerings: dict[str, Lowering] = {}
        self.searches: dict[tuple[Method, str], tuple[Sensitivity, float]] = {}

    def points(self, rounding: str, method: str, budgets: Sequence[float]) -> list[Point]:
        """What the method comes to at every budget; its files are judged by then."""
        contender = CONTENDERS[method]
        blank = Point(self.network.name, rounding, method, self.seed, 0.0, self.samples, self.commit)
        try:
            found, seconds = self.found(rounding, contender)
        except OnnxmpqError as error:
            return [replace(blank, budget=budget, error=str(error)) for budget in budgets]
        row = replace(blank, seconds=seconds, evaluations=found.evaluations, samples=found.samples)
        models: dict[str, onnx.ModelProto] = {}
        points = [self._point(replace(row, budget=b), contender, found, models) for b in budgets]
        self.judge(models)
        return points

    def found(self, rounding: str, contender: Contender) -> tuple[Sensitivity, float]:
        """What the method found and in how many seconds; it looks once where another rounding changes nothing."""
        key = contender.method, "" if contender.blind else rounding
        if key not in self.searches:
            lowering = asked(self.lowering(rounding), method=contender.seeing(self.search_samples))
            start = time.perf_counter()
            self.searches[key] = measure(lowering.setting, lowering.candidates), time.perf_counter() - start
        return self.searches[key]

    def lowering(self, rounding: str) -> Lowering:
        """The network with its weights rounded, which is done once."""
        if rounding not in self.lowerings:
            plain = replace(
                self.loaded.request.search.effort, mirrors=False
            )  # the images as they are, as published
            request = changed(self.loaded.request, rounding=rounding, effort=plain)
            own = replace(self.loaded, request=request)
            self.lowerings[rounding] = rounded(own)
        return self.lowerings[rounding]

    def _point(
        self, row: Point, contender: Contender, found: Sensitivity, models: dict[str, onnx.ModelProto]
    ) -> Point:
        """The plan for a budget, its file added to `models` by its digest."""
        budget = Budget.parse(f"{row.budget}bit-avg")
        own = asked(self.lowering(row.rounding), method=contender.method, budgets=(budget,)).over(found)
        start = time.perf_counter()
        try:
            plan = allocate(own, found, None)
        except OnnxmpqError as error:
            return replace(row, error=str(error))
        if contender.searched and isinstance(found, CostTable):
            plan, _ = search(own, plan)
        seconds = row.seconds + time.perf_counter() - start
        return filed(replace(row, seconds=seconds), own.draft(plan), models)


def filed(row: Point, draft: Draft, models: dict[str, onnx.ModelProto]) -> Point:
    """The point of a draft, whose file joins `models`."""
    model = draft.lowered()
    key = digest(model)
    models[key] = model
    bits = average_bits(draft.prepared.layers, draft.plan)
    return replace(row, digest=key, average_bits=bits, file_bytes=model.ByteSize())


def asked(lowering: Lowering, **changes: Any) -> Lowering:
    """The same network under another request."""
    setting = lowering.setting
    return replace(lowering, setting=replace(setting, request=changed(setting.request, **changes)))


if __name__ == "__main__":
    main()
