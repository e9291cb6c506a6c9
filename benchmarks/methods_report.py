"""The table and the plot of benchmarks/methods.py: every method beside the others, and ours against the best of the six."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paired
from judgements import FP32, Judgements, mean_hits
from machine import header, table
from numpy.typing import NDArray
from points import Point

OURS = ("measured", "measured, searched")
SIX = (
    "greedy", "first-order", "semilayer", "csmpq", "csmpq, as published", "ompq", "ompq, as published", "limpq",
)  # fmt: skip

_NOTES = """Weights only, widths 2, 3, 4, 5, 6 and 8, all layers searched; the budget is the mean stored bits over all weights,
and the file holds the scales too, and for semilayers the map of channels. Every method saw the same {samples} calibration
images (sensitivity: see `images`; labels where it asks for them). Compensated is the first rounding of a compile; its
second one, behind quantized layers, would be the same for all but semilayers, which keep their first. `measured, searched` is what `compile` does by default:
rivals of its plan are judged on calibration images that no cost was measured on; up to 2026-11-30 swaps around it as well. Top-1 in per cent on held-out
images that nothing was chosen on: the mean over the seeds (means of different seeds do not compare), and in brackets the least and the
largest where there are several. Search: seconds on this machine (means; what does not look at rounded weights is searched once for both
roundings; other measurements ran beside, so they tell the order of magnitude), evaluations (runs over its images, of a changed network or
with gradients or features), images of one evaluation."""
_ABREAST = 2  # panels of the plot: both roundings of a network
_AGAINST = """Ours minus the best of the six at that budget, which is picked by the very images it is judged on, in points of
top-1; in brackets the 95 % interval of a paired bootstrap over the images, means over the seeds that both have. **Bold**
where the whole interval is below zero."""

Key = tuple[str, str]  # network, rounding


def report(points: Sequence[Point], judgements: Judgements, samples: int) -> str:
    """The tables of every network and rounding, methods by their mean top-1."""
    commits = ", ".join(sorted({point.commit for point in points}))
    parts = [f"# Methods\n\n{_NOTES.format(samples=samples)}\n\n{header()} Measured at {commits}.\n"]
    budgets = sorted({point.budget for point in points})
    for (model, rounding), some in grouped(points).items():
        fp32 = judgements.get((model, FP32))
        told = "" if fp32 is None else f"fp32 {100 * fp32.hits.mean():.2f} on {fp32.images:,} images.\n\n"
        parts.append(f"## {model}, {rounding} rounding\n\n{told}{_methods(some, judgements, budgets)}")
        if any(point.method in SIX and not point.error for point in some):
            parts.append(f"{_AGAINST}\n\n{_against(some, judgements, budgets)}")
        if updated := _updated(some, judgements, budgets):
            parts.append(updated)
    return "\n".join(parts)


def grouped(points: Sequence[Point]) -> Mapping[Key, list[Point]]:
    """The points of every network and rounding."""
    found: dict[Key, list[Point]] = {}
    for point in points:
        found.setdefault((point.model, point.rounding), []).append(point)
    return found


def _methods(points: Sequence[Point], judgements: Judgements, budgets: Sequence[float]) -> str:
    columns = [
        "method",
        "seeds",
        *(f"{b:g} bits" for b in budgets),
        "mean",
        "search s",
        "evaluations",
        "images",
    ]
    rows = sorted(_rows(points, judgements, budgets), key=lambda row: -row[0])
    return table(columns, [row for _, row in rows])


def _rows(
    points: Sequence[Point], judgements: Judgements, budgets: Sequence[float]
) -> Iterator[tuple[float, list[str]]]:
    """(what to sort by, cells) of each method; the mean over some of the budgets would say nothing."""
    for method in dict.fromkeys(point.method for point in points):
        own = [point for point in points if point.method == method]
        good = [point for point in own if not point.error]
        if not good:
            yield -1.0, [method, *["-"] * (len(budgets) + 4), own[0].error[:120]]
            continue
        top1 = {
            b: [judgements[p.model, p.digest].hits.mean() for p in good if p.budget == b] for b in budgets
        }
        mean = float(np.mean([np.mean(found) for found in top1.values()])) if all(top1.values()) else None
        cost = [f"{_mean(good, lambda p: p.seconds):.1f}", f"{_mean(good, lambda p: p.evaluations):,.0f}"]
        cells = [*map(_cell, top1.values()), "-" if mean is None else f"{100 * mean:.2f}"]
        tried = ", ".join(str(seed) for seed in sorted({point.seed for point in good}))
        yield mean or 0.0, [method, tried, *cells, *cost, f"{good[0].samples:,}"]


def _mean(points: Sequence[Point], of: Callable[[Point], float]) -> float:
    return float(np.mean([of(point) for point in points]))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({100 * min(values):.2f} to {100 * max(values):.2f})" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.2f}{spread}"


def _against(points: Sequence[Point], judgements: Judgements, budgets: Sequence[float]) -> str:
    """A row for each of ours, under the best of the six for each budget."""
    best = {budget: best_of_six(points, judgements, budget) for budget in budgets}
    named = ["best of the six", *(best[budget] or "-" for budget in budgets)]
    rows = [
        [ours, *(_gain(points, judgements, budget, ours, best[budget]) for budget in budgets)]
        for ours in OURS
    ]
    return table(["", *(f"{b:g} bits" for b in budgets)], [named, *rows])


def _updated(points: Sequence[Point], judgements: Judgements, budgets: Sequence[float]) -> str:
    """What greedy search gains by measuring again, over the budgets and seeds that both orders have.

    A path of plans seldom has one of just the budget's size, so the two differ a little in theirs.
    """
    orders = "greedy", "greedy, frozen order"
    found = [gains(points, judgements, budget, *orders) for budget in budgets]
    if not all(len(some) for some in found):
        return ""
    low, high = paired.interval(np.mean(found, axis=0))
    plans = [[seeds(points, order, budget) for order in orders] for budget in budgets]
    both = [[mine[s], its[s]] for mine, its in plans for s in mine.keys() & its.keys()]
    mine, its = (_mean(some, lambda p: p.average_bits) for some in zip(*both, strict=True))
    return (
        f"Greedy search minus its frozen order, mean over the budgets: {np.mean(found):+.2f} points "
        f"({low:+.2f} to {high:+.2f}), with {mine:.3f} bits a weight against {its:.3f}.\n"
    )


def best_of_six(points: Sequence[Point], judgements: Judgements, budget: float) -> str | None:
    """The published method that is best beside ours at a budget, over the seeds that both have; None without points."""
    ahead = {method: gains(points, judgements, budget, OURS[0], method) for method in SIX}
    known = {method: float(found.mean()) for method, found in ahead.items() if len(found)}
    return min(known, key=lambda method: known[method], default=None)


def seeds(points: Sequence[Point], method: str, budget: float) -> dict[int, Point]:
    """The plans of a method for a budget by their seeds."""
    return {p.seed: p for p in points if (p.method, p.budget, p.error) == (method, budget, "")}


def _gain(
    points: Sequence[Point], judgements: Judgements, budget: float, ours: str, other: str | None
) -> str:
    found = np.zeros(0) if other is None else gains(points, judgements, budget, ours, other)
    if not len(found):
        return "-"
    low, high = paired.interval(found)
    text = f"{found.mean():+.2f} ({low:+.2f} to {high:+.2f})"
    return f"**{text}**" if high < 0 else text


def gains(
    points: Sequence[Point], judgements: Judgements, budget: float, ours: str, other: str
) -> NDArray[np.float64]:
    """How much more often each image is right under `ours`, in per cent of the seeds that both have; [] without."""
    mine, its = seeds(points, ours, budget), seeds(points, other, budget)
    both = sorted(mine.keys() & its.keys())
    if not both:
        return np.zeros(0)
    after, before = (
        mean_hits([judgements[p.model, p.digest] for p in (some[seed] for seed in both)])
        for some in (mine, its)
    )
    return 100 * (after - before)


def plot(points: Sequence[Point], judgements: Judgements, path: Path) -> None:
    """Top-1 over the budget, a panel for every network and rounding; nothing where there is nothing to draw."""
    points = [point for point in points if not point.error]
    if not points:
        return
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot is drawn: pip install onnxmpq[benchmarks]")
        return
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = grouped(points)
    width = min(len(panels), _ABREAST)
    height = -(-len(panels) // width)
    size = 5 * width, 4 * height + 1
    figure, axes = plt.subplots(height, width, figsize=size, squeeze=False, layout="constrained")
    drawn = {point.method for point in points}
    styles = {method: style for method, style in _styles(points).items() if method in drawn}
    for axis, ((model, rounding), some) in zip(axes.flat, panels.items(), strict=False):
        for method, style in styles.items():
            line = _line(some, judgements, method)
            axis.plot(line.keys(), line.values(), marker="o", markersize=3, label=method, **style)
        fp32 = judgements.get((model, FP32))
        if fp32 is not None:
            axis.axhline(100 * fp32.hits.mean(), color="grey", linewidth=0.8)
        axis.set(title=f"{model}, {rounding}", xlabel="mean bits a weight", ylabel="top-1, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _styles(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Ours wide and black, the six dashed, each in a colour of its own, the others dotted."""
    others = [m for m in dict.fromkeys(point.method for point in points) if m not in {*OURS, *SIX}]
    ours = zip(OURS, (":", "-"), strict=True)
    return {
        **{m: {"color": "black", "linestyle": dash, "linewidth": 2.0} for m, dash in ours},
        **{m: {"color": f"C{i}", "linestyle": "--", "linewidth": 1.0} for i, m in enumerate(SIX)},
        **{m: {"color": f"C{i}", "linestyle": ":", "linewidth": 1.0} for i, m in enumerate(others)},
    }


def _line(points: Sequence[Point], judgements: Judgements, method: str) -> dict[float, float]:
    """Mean top-1 by budget."""
    budgets = sorted({p.budget for p in points if p.method == method and not p.error})
    return {
        budget: 100 * _mean(list(seeds(points, method, budget).values()), lambda p: _top1(judgements, p))
        for budget in budgets
    }


def _top1(judgements: Judgements, point: Point) -> float:
    return float(judgements[point.model, point.digest].hits.mean())
