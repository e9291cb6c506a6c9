"""Every sensitivity method on equal terms: one quantizer, one size count, the same images, several seeds.

python benchmarks/methods.py [--models resnet20 ...] [--methods measured ompq ...] [--budgets 2.5 3 ...]
                             [--roundings nearest compensated] [--seeds 0 1 2] [--samples 512]
                             [--results docs/methods_results.jsonl] [--output docs/methods_table.md]

What is measured is added to the results line by line; a run goes on where the last one stopped, and the table and
the plot are made of all that is there. A method looks once for each network, rounding and seed; all budgets use that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import Hits
from machine import ROOT, header, table
from networks import Network, evaluation, labelled_calibration, networks, open_samples

from onnxmpq.activations.calibrators import CALIBRATORS
from onnxmpq.allocation.constrain import average_bits
from onnxmpq.budget import Budget
from onnxmpq.effort import EFFORTS
from onnxmpq.engine import Runtime, Session
from onnxmpq.errors import OnnxmpqError
from onnxmpq.evidence import gather
from onnxmpq.metrics import OutputKind, classes, kl_divergence
from onnxmpq.model.modelfile import load_model
from onnxmpq.observer import Observer, Stages
from onnxmpq.prepare import runnable
from onnxmpq.request import DEFAULT_BITS, Request
from onnxmpq.sensitivity import METHODS, Method
from onnxmpq.sensitivity.csmpq import as_published as csmpq_as_published
from onnxmpq.sensitivity.greedy import greedy
from onnxmpq.sensitivity.ompq import as_published as ompq_as_published
from onnxmpq.stages.allocate import allocate
from onnxmpq.stages.calibrate import calibrate
from onnxmpq.stages.load import Loaded
from onnxmpq.stages.lowering import Draft, Lowering
from onnxmpq.stages.place import place
from onnxmpq.stages.prepare import prepare_model
from onnxmpq.stages.round import round_weights
from onnxmpq.stages.sensitivity import measure
from onnxmpq.target import find_target
from onnxmpq.weights.candidates import ROUNDINGS

VARIANTS: Mapping[str, Method] = {
    "greedy, frozen order": replace(greedy, updated=False),
    "csmpq, as published": csmpq_as_published,
    "ompq, as published": ompq_as_published,
}
CONTENDERS: Mapping[str, Method] = {**METHODS, **VARIANTS}

_BATCH = 50
_NOTES = (
    "Weights only, widths 2, 3, 4, 5, 6 and 8, all layers searched; the budget is the mean stored bits over all "
    "weights, and the file holds the scales too, and for semilayers the map of channels. Every method saw the same "
    "{samples} calibration images (sensitivity: {sensitivity} of them; labels where it asks for them). Top-1 in "
    "per cent on held-out images that nothing was chosen on: the mean over the seeds, and in brackets the least and "
    "the largest where there are several. Search: seconds (of one seed, on this machine), evaluations of a changed "
    "network, images of one evaluation."
)


@dataclass(frozen=True, slots=True)
class Result:
    """One point: a method's plan for one budget; `error` is why there is none."""

    model: str
    rounding: str
    method: str
    seed: int
    budget: float
    average_bits: float = 0.0
    file_bytes: int = 0
    top1: float = 0.0
    fp32_top1: float = 0.0
    kl: float = 0.0
    images: int = 0
    search_seconds: float = 0.0
    evaluations: int = 0
    samples: int = 0
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str, int, float]:
        return self.model, self.rounding, self.method, self.seed, self.budget


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--methods", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.5, 3.0, 3.5, 4.0, 5.0])
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=list(reversed(ROUNDINGS)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "methods_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "methods_table.md")
    options = parser.parse_args()
    results = {result.key: result for result in read(options.results)}
    chosen = [n for n in networks(options.models) if options.models or n.name != "squeezenet"]
    for network, seed, rounding in itertools.product(chosen, options.seeds, options.roundings):
        missing = {
            method: [b for b in options.budgets if (network.name, rounding, method, seed, b) not in results]
            for method in options.methods
        }
        missing = {method: budgets for method, budgets in missing.items() if budgets}
        if not missing:
            continue
        bench = Bench(network, rounding, seed, options.samples)
        for method, budgets in missing.items():
            for result in bench.results(method, budgets):
                results[result.key] = result
                append(options.results, result)
                print(json.dumps(asdict(result)), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report(list(results.values()), options.samples), encoding="utf-8")
    plot(list(results.values()), options.output.with_suffix(".png"))


class Bench:
    """A network prepared, rounded and ready to be judged: what all methods have in common."""

    def __init__(self, network: Network, rounding: str, seed: int, samples: int) -> None:
        self.network, self.rounding, self.seed = network, rounding, seed
        self.runtime = Runtime()
        original, session = runnable(self.runtime, load_model(network.model))
        evidence = gather(
            session, None, labelled_calibration(network), evaluation(network), shapes={}, samples=samples,
            preprocess=network.decoding, seed=seed, note=lambda _: None,
        )  # fmt: skip
        request = Request(  # `_asked` puts the method and the budget of each point in its place
            budgets=(Budget.parse("4bit-avg"),), keeps=(), target=find_target("ort-cpu"), widths=DEFAULT_BITS,
            activations="fp32", calibrator=CALIBRATORS["typical"], rounding=rounding, method=METHODS["measured"],
            effort=EFFORTS["balanced"], metric=None, provider="cpu", seed=seed, verify=False, force=True,
        )  # fmt: skip
        loaded = Loaded(request, Stages(Observer()), self.runtime, original, session, evidence, 0)
        self.lowering = round_weights(calibrate(loaded, place(loaded, prepare_model(loaded))))
        self.judged = open_samples(network, evaluation(network), samples=None)
        self.expected = [session.run(b.feeds)[session.outputs[0]] for b in self.judged.batches(_BATCH)]
        self.before = self.judge(session)

    def results(self, method: str, budgets: Sequence[float]) -> Iterator[Result]:
        """What the method comes to at every budget."""
        blank = Result(self.network.name, self.rounding, method, self.seed, 0.0)
        lowering = self._asked(method=CONTENDERS[method])
        start = time.perf_counter()
        try:
            found = measure(lowering)
        except OnnxmpqError as error:
            yield from (replace(blank, budget=budget, error=str(error)) for budget in budgets)
            return
        row = replace(
            blank, search_seconds=time.perf_counter() - start, evaluations=found.evaluations, samples=found.samples
        )  # fmt: skip
        for budget in budgets:
            own = self._asked(budgets=(Budget.parse(f"{budget}bit-avg"),)).over(found)
            try:
                plan = allocate(own, found, None)
            except OnnxmpqError as error:
                yield replace(row, budget=budget, error=str(error))
                continue
            yield self._measured(replace(row, budget=budget), own.draft(plan))

    def _asked(self, **changes: Any) -> Lowering:
        """The same network under another request."""
        setting = self.lowering.setting
        return replace(self.lowering, setting=replace(setting, request=replace(setting.request, **changes)))

    def _measured(self, row: Result, draft: Draft) -> Result:
        model = draft.lowered()
        hits, kl = self.judge(self.runtime.session(model))
        return replace(
            row, average_bits=average_bits(draft.prepared.layers, draft.plan), file_bytes=model.ByteSize(),
            top1=float(hits.mean()), fp32_top1=float(self.before[0].mean()), kl=kl, images=len(hits),
        )  # fmt: skip

    def judge(self, session: Session) -> tuple[Hits, float]:
        """Whether each held-out image's class is right, and the mean KL to the original in nats."""
        name = session.outputs[0]
        hits, kl = [], 0.0
        for expected, batch in zip(self.expected, self.judged.batches(_BATCH), strict=True):
            got = session.run(batch.feeds)[name]
            hits.append(classes(got) == batch.labels)
            kl += float(kl_divergence(expected, got, OutputKind.LOGITS).sum())
        return np.concatenate(hits), kl / self.judged.count


def read(path: Path) -> list[Result]:
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def append(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


def report(results: Sequence[Result], samples: int) -> str:
    """The table of every network and rounding, methods by their mean top-1."""
    notes = _NOTES.format(samples=samples, sensitivity=EFFORTS["balanced"].sensitivity)
    parts = [f"# Methods\n\n{notes}\n\n{header()}\n"]
    budgets = sorted({result.budget for result in results})
    for (model, rounding), some in _grouped(results):
        fp32, images = next(((r.fp32_top1, r.images) for r in some if not r.error), (0.0, 0))
        rows = sorted(_rows(some, budgets), key=lambda row: -row[0])
        columns = ["method", *(f"{b:g} bits" for b in budgets), "mean", "search s", "evaluations", "images"]
        parts.append(
            f"## {model}, {rounding} rounding\n\nfp32 {100 * fp32:.2f} on {images:,} images.\n\n"
            + table(columns, [row for _, row in rows])
        )
    return "\n".join(parts)


def _rows(results: Sequence[Result], budgets: Sequence[float]) -> Iterator[tuple[float, list[str]]]:
    for method in dict.fromkeys(result.method for result in results):
        own = [result for result in results if result.method == method]
        good = [result for result in own if not result.error]
        if not good:
            yield -1.0, [method, *["-"] * (len(budgets) + 3), own[0].error[:120]]
            continue
        cells = [_cell([r.top1 for r in good if r.budget == budget]) for budget in budgets]
        whole = {result.budget for result in good} == set(budgets)  # a mean of some budgets says nothing
        mean = float(np.mean([result.top1 for result in good])) if whole else 0.0
        one = good[0]
        search = [f"{one.search_seconds:.1f}", f"{one.evaluations:,}", f"{one.samples:,}"]
        yield mean, [method, *cells, f"{100 * mean:.2f}" if whole else "-", *search]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({100 * min(values):.2f} to {100 * max(values):.2f})" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.2f}{spread}"


def _grouped(results: Sequence[Result]) -> list[tuple[tuple[str, str], list[Result]]]:
    keys = dict.fromkeys((result.model, result.rounding) for result in results)
    return [(key, [r for r in results if (r.model, r.rounding) == key]) for key in keys]


def plot(results: Sequence[Result], path: Path) -> None:
    """Top-1 over the budget, a panel for every network and rounding."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot is drawn: pip install onnxmpq[benchmarks]")
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(key, [r for r in some if not r.error]) for key, some in _grouped(results)]
    figure, axes = plt.subplots(
        1, max(len(panels), 1), figsize=(5 * max(len(panels), 1), 4.5), squeeze=False, layout="constrained"
    )
    methods = [m for m in CONTENDERS if any(r.method == m for r in results)]
    for axis, ((model, rounding), some) in zip(axes[0], panels, strict=False):
        for number, method in enumerate(methods):
            budgets = sorted({r.budget for r in some if r.method == method})
            means = [
                100 * np.mean([r.top1 for r in some if (r.method, r.budget) == (method, b)]) for b in budgets
            ]
            style = "-" if method in METHODS else "--"
            axis.plot(budgets, means, style, color=f"C{number}", marker="o", markersize=3, label=method)
        if some:
            axis.axhline(100 * some[0].fp32_top1, color="grey", linewidth=0.8)
        axis.set(title=f"{model}, {rounding}", xlabel="mean bits a weight", ylabel="top-1, %")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
