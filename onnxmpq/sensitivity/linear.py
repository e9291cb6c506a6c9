"""What a method gives that knows one importance a layer: the worth of a bit, whatever the width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.relax import nearest_widths, relaxed_widths, widths_within
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.plan import Plan

# The linear program solved exactly; the authors' solver with its widths rounded to the nearest options, as they do
# for MobileNetV2; or with a search for the widths around them that store no more, as for ResNet-18 (for some dozens
# of layers).
Program = Literal["exact", "relaxed", "searched"]
PROGRAMS: tuple[Program, ...] = get_args(Program)

_STEPS_A_BIT = 16  # of the mean width: sizes that the relaxed program is solved for
_MIB = 2**20


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
