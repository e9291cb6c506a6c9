"""What a method gives that knows one importance a layer: the worth of a bit, whatever the width.

The continuous program of OMPQ and CSMPQ, as their authors run it, and how they make whole widths of it:

    max  sum_l importance_l x_l    s.t.  sum_l size_l x_l <= budget,   low / 8 <= x_l <= high / 8        (x = bits / 8)

It is a fractional knapsack, whose optimum is a vertex; their solver (SLSQP from x = 1) stops before it wherever
the importances are small or alike, near the point of the budget's plane closest to where it starts. So the
published policies come of it and not of the exact program, and the scale of the importances matters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from onnxmpq.errors import OptionError
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Doubles
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.plan import Plan

# The linear program solved exactly; the authors' solver with its widths rounded to the nearest options, as they do
# for MobileNetV2; or with a search for the widths around them that store no more, as for ResNet-18 (for some dozens
# of layers).
Program = Literal["exact", "relaxed", "searched"]
PROGRAMS: tuple[Program, ...] = get_args(Program)

_STEPS_A_BIT = 16  # of the mean width: sizes that the relaxed program is solved for
_MIB = 2**20
_MOST_BETWEEN = 40  # layers
_DIGITS = 6  # of a width that tell: what the solver leaves beside a bound is no fraction


@dataclass(frozen=True, slots=True)
class Importances:
    """What a bit is worth at each layer, in `unit`; the rest says where that comes from, as in a CostTable."""

    values: Mapping[str, float]
    unit: str
    method: str
    samples: int
    evaluations: int

    def of(self, probe: Probe) -> dict[str, float]:
        """Those of all layers with a choice; a layer without one of its own gets the mean."""
        mean = float(np.mean(list(self.values.values())))
        return {name: self.values.get(name, mean) for name in probe.options}


def solved(program: Program, probe: Probe, found: Importances) -> Sensitivity:
    """The costs that the exact program is solved with, or the path of the authors' own."""
    if program == "exact":
        return by_exact_program(probe, found)
    return by_relaxed_program(probe, found, within=program == "searched")


def by_exact_program(probe: Probe, found: Importances) -> CostTable:
    """Cost = importance x the bits below the layer's highest width; its least sum is the largest sum of b x importance."""
    costs = {}
    for name, value in found.of(probe).items():
        widest = probe.highest(name)
        costs[name] = {option: value * (widest - option.weight_bits) for option in probe.options[name]}
    return CostTable(costs, found.unit, found.method, found.samples, found.evaluations)


def by_relaxed_program(probe: Probe, found: Importances, *, within: bool) -> Trajectory:
    """The relaxed program solved for sixteen sizes a mean bit, each rounded to options (`within`: storing no more).

    A width that was given up at one size is not taken back at a smaller one. Between two sizes one layer after the
    other goes down, the first of the network first: the authors' search, too, keeps the later ones wide.
    """
    values = found.of(probe)
    params = {layer.name: layer.params for layer in probe.layers}
    counts = [params[name] for name in values]
    sizes = np.array(counts) / _MIB
    options = {name: probe.by_width(name) for name in values}
    choices = list(options.values())
    low, high = (np.array([pick(bits) for bits in choices], np.float64) for pick in (min, max))
    steps = 1 + round(_STEPS_A_BIT * float(np.max(high - low)))
    now = {name: max(bits) for name, bits in options.items()}
    plans = [Plan({name: options[name][bits] for name, bits in now.items()})]
    for budget in np.linspace(sizes @ high / 8, sizes @ low / 8, steps):
        relaxed = relaxed_widths(np.array(list(values.values())), sizes, float(budget), low, high)
        whole = widths_within(relaxed, choices, counts) if within else nearest_widths(relaxed, choices)
        for name, bits in zip(options, whole, strict=True):
            if bits < now[name]:
                now[name] = bits
                plans.append(Plan({**plans[-1].options, name: options[name][bits]}))
    return Trajectory(
        tuple(plans), (None,) * len(plans), found.unit, found.method, found.samples, found.evaluations
    )


def relaxed_widths(
    importance: Doubles, sizes: Doubles, budget: float, low: Doubles, high: Doubles
) -> Doubles:
    """Bits of each layer, float64 [layers], not whole.

    `sizes` are in MiB at 8 bits, `budget` in MiB, `low` and `high` in bits: the solver's tolerances are in
    these units.
    """
    # The import takes half a second, and only two methods need it.
    from scipy.optimize import minimize

    found = minimize(
        lambda x: -(importance @ x),
        np.ones(len(sizes)),
        jac=lambda _: -importance,
        method="SLSQP",
        bounds=list(zip(low / 8, high / 8, strict=True)),
        constraints={"type": "ineq", "fun": lambda x: np.array([budget - sizes @ x])},
    )
    widths: Doubles = 8 * np.asarray(found.x, np.float64)
    return widths


def nearest_widths(widths: Doubles, choices: Sequence[Iterable[int]]) -> list[int]:
    """The nearest choice of each layer, the narrower of two; may exceed the budget that the widths meet."""
    return [
        min(sorted(bits), key=lambda b, w=w: abs(b - w))  # type: ignore[misc]
        for bits, w in zip(choices, np.round(widths, _DIGITS).tolist(), strict=True)
    ]


def widths_within(widths: Doubles, choices: Sequence[Collection[int]], counts: Sequence[int]) -> list[int]:
    """Each width rounded down or up to a choice so that no more is stored than by `widths`, and of such the most.

    `counts` are the weights of each layer. A depth-first search from the last layer to the first, upward first,
    in which the first of equal ones wins. Exponential in the layers that fit neither way: raises OptionError for
    more than some dozens.
    """
    exact = np.round(widths, _DIGITS)
    down = [
        max([b for b in bits if b <= w], default=min(bits)) for bits, w in zip(choices, exact, strict=True)
    ]
    up = [min([b for b in bits if b >= w], default=max(bits)) for bits, w in zip(choices, exact, strict=True)]
    between = sum(low < high for low, high in zip(down, up, strict=True))
    if between > _MOST_BETWEEN:
        raise OptionError(
            f"{between} layers lie between two widths, and the authors' search for some dozens would not end; take "
            'program "relaxed"'
        )
    limit = math.floor(float(exact @ np.asarray(counts, np.float64)) + 1e-3)
    least = np.cumsum([0, *(b * n for b, n in zip(down, counts, strict=True))]).tolist()
    most = np.cumsum([0, *(b * n for b, n in zip(up, counts, strict=True))]).tolist()
    best = -1
    found: list[int] = down
    stack: list[tuple[int, int, tuple[int, ...]]] = [(len(counts), 0, ())]
    while stack:
        left, used, chosen = stack.pop()
        if used + least[left] > limit or used + most[left] <= best:
            continue
        if left == 0:
            best, found = used, list(chosen)
            continue
        for bits in sorted({down[left - 1], up[left - 1]}):  # the last one pushed is the first one tried
            stack.append((left - 1, used + bits * counts[left - 1], (bits, *chosen)))
    return found
