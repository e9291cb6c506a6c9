"""Measured costs made fit for a program: noise must not make a narrower width look better than a wider one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from statistics import fmean

from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import Option

Costs = Mapping[Option, float]


def tidy(table: CostTable) -> CostTable:
    """Every layer's costs falling as its widths grow; one that no sample reached costs what others do on average."""
    costs = {name: monotone(options) for name, options in table.costs.items()}
    known = [options for options in costs.values() if any(options.values())]
    filled = {
        name: options if any(options.values()) else _typical(options, known)
        for name, options in costs.items()
    }
    return replace(table, costs=filled)


def monotone(costs: Costs) -> dict[Option, float]:
    """The least raise of costs that lets none be below that of a wider option of the same activations."""
    raised = {}
    ordered = sorted(costs, key=lambda o: (o.activation_bits or 0, -o.weight_bits))
    for _, group in groupby(ordered, key=lambda o: o.activation_bits):
        highest = 0.0
        for option in group:
            highest = max(highest, costs[option])
            raised[option] = highest
    return {option: raised[option] for option in costs}


def _typical(options: Costs, known: list[dict[Option, float]]) -> dict[Option, float]:
    """The mean cost that other layers have at each option."""
    found = {o: [costs[o] for costs in known if o in costs] for o in options}
    return monotone({o: fmean(values) if values else 0.0 for o, values in found.items()})
