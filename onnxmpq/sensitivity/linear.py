"""What a method gives that knows one importance a layer: the worth of a bit, whatever the width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmpq.allocation.relax import nearest_widths, relaxed_widths
from onnxmpq.plan import CostTable, Plan, Trajectory
from onnxmpq.sensitivity.probe import Probe

_STEPS_A_BIT = 16  # of the mean width: sizes that the relaxed program is solved for
_MIB = 2**20


def by_exact_program(
    probe: Probe, importance: Mapping[str, float], unit: str, method: str, samples: int
) -> CostTable:
    """Cost = importance x the bits below the layer's highest width; its least sum is the largest sum of b x importance.

    Layers without an importance of their own get the mean.
    """
    costs = {}
    for name, value in _complete(probe, importance).items():
        widest = probe.highest(name)
        costs[name] = {option: value * (widest - option.weight_bits) for option in probe.options[name]}
    return CostTable(costs, unit, method, samples)


def by_relaxed_program(
    probe: Probe, importance: Mapping[str, float], unit: str, method: str, samples: int
) -> Trajectory:
    """The relaxed program solved for sixteen sizes a mean bit, each rounded to the nearest options.

    A width that was given up at one size is not taken back at a smaller one. Between two sizes one layer after the
    other goes down, the first of the network first: the authors' search, too, keeps the later ones wide.
    """
    values = _complete(probe, importance)
    params = {layer.name: layer.params for layer in probe.layers}
    sizes = np.array([params[name] / _MIB for name in values])
    options = {name: {o.weight_bits: o for o in probe.options[name]} for name in values}
    low, high = (np.array([pick(bits) for bits in options.values()], np.float64) for pick in (min, max))
    steps = 1 + round(_STEPS_A_BIT * float(np.max(high - low)))
    now = {name: max(bits) for name, bits in options.items()}
    plans = [Plan({name: options[name][bits] for name, bits in now.items()})]
    for budget in np.linspace(sizes @ high / 8, sizes @ low / 8, steps):
        relaxed = relaxed_widths(np.array(list(values.values())), sizes, float(budget), low, high)
        for name, bits in zip(options, nearest_widths(relaxed, list(options.values())), strict=True):
            if bits < now[name]:
                now[name] = bits
                plans.append(Plan({**plans[-1].options, name: options[name][bits]}))
    return Trajectory(tuple(plans), (None,) * len(plans), unit, method, samples)


def _complete(probe: Probe, importance: Mapping[str, float]) -> dict[str, float]:
    mean = float(np.mean(list(importance.values())))
    return {name: importance.get(name, mean) for name in probe.options}
